//! The bounds of what a job type's code may reach: devices and hosts.

use std::collections::BTreeSet;

use super::bounds::Bounds;
use super::job_type::{Gpu, Network};
use crate::domain::{GpuVendor, HostRule};

pub(super) fn check_gpu(bounds: &mut Bounds, at: &str, gpu: &Gpu) {
    if let Some(count) = gpu.count {
        bounds.number(&format!("{at}.count"), count, 1, 64);
    }
    bounds.require(gpu.count.is_none() || gpu.device_ids.is_empty(), &format!("{at}.device_ids"), || {
        "must be empty where count is given".to_owned()
    });
    bounds.count(&format!("{at}.device_ids"), gpu.device_ids.len(), 64);
    let mut seen = BTreeSet::new();
    for (index, id) in gpu.device_ids.iter().enumerate() {
        let key = format!("{at}.device_ids[{index}]");
        bounds.require(gpu.vendor.is_device_id(id), &key, || {
            let uuid = if gpu.vendor == GpuVendor::Nvidia { " or a UUID as nvidia-smi -L prints it" } else { "" };
            format!("{id:.60?} must be an index from 0 to 63{uuid}")
        });
        bounds.require(seen.insert(id), &key, || format!("{id:.60?} is named twice"));
    }
}

pub(super) fn check_network(bounds: &mut Bounds, at: &str, network: &Network) {
    bounds.count(&format!("{at}.allow"), network.allow.len(), 100);
    bounds.require(!network.enabled || !network.allow.is_empty(), &format!("{at}.allow"), || {
        "must name the hosts that the code may reach, like api.example.com or *.example.org:443".to_owned()
    });
    for (index, rule) in network.allow.iter().enumerate() {
        if let Err(error) = rule.parse::<HostRule>() {
            bounds.say(&format!("{at}.allow[{index}]"), format!("{rule:.100?} {error}"));
        }
    }
}
