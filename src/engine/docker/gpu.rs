//! GPUs of a container: what is asked of the daemon, and whether it can grant it.

use std::path::Path;

use bollard::models::{DeviceMapping, DeviceRequest, HostConfig};

use super::config::GVISOR;
use crate::domain::{GpuDevices, GpuRequest, GpuVendor};

/// AMD's compute device, of which there is one for all GPUs.
const KFD: &str = "/dev/kfd";

/// Puts a job type's GPUs into a container's configuration: a device request for NVIDIA, which its
/// container toolkit answers; device nodes for AMD.
pub(super) fn add(config: &mut HostConfig, gpu: &GpuRequest) {
    match gpu.vendor {
        GpuVendor::Nvidia => {
            let (count, device_ids) = match &gpu.devices {
                GpuDevices::Count(count) => (Some(i64::from(*count)), None),
                GpuDevices::Ids(ids) => (None, Some(ids.clone())),
            };
            let capabilities = ["gpu", "compute", "utility"].map(str::to_owned).to_vec();
            config.device_requests = Some(vec![DeviceRequest {
                driver: Some("nvidia".to_owned()),
                count,
                device_ids,
                capabilities: Some(vec![capabilities]),
                options: None,
            }]);
        }
        GpuVendor::Amd => config.devices = Some(nodes(gpu).into_iter().map(mapping).collect()),
    }
}

/// The device nodes that the code must be able to open; of NVIDIA the toolkit makes them open to all.
pub(super) fn nodes(gpu: &GpuRequest) -> Vec<String> {
    if gpu.vendor != GpuVendor::Amd {
        return Vec::new();
    }
    let indices: Vec<u32> = match &gpu.devices {
        GpuDevices::Count(count) => (0..*count).collect(),
        GpuDevices::Ids(ids) => ids.iter().filter_map(|id| id.parse().ok()).collect(),
    };
    // The kernel numbers render nodes from 128 on.
    let render = indices.into_iter().map(|index| format!("/dev/dri/renderD{}", 128 + index));
    std::iter::once(KFD.to_owned()).chain(render).collect()
}

fn mapping(node: String) -> DeviceMapping {
    DeviceMapping {
        path_on_host: Some(node.clone()),
        path_in_container: Some(node),
        // Read and write; no making of nodes.
        cgroup_permissions: Some("rw".to_owned()),
    }
}

/// Why a daemon with these runtimes, at that address, cannot give a sandbox the GPUs, if so.
pub(super) fn refusal(gpu: &GpuRequest, runtime: &str, runtimes: &[String], address: &str) -> Option<String> {
    let vendor = gpu.vendor.as_str();
    if runtime == GVISOR {
        return Some(format!(
            "sandboxes run on {GVISOR}, which is given no {vendor} GPU here; use runc for such job types"
        ));
    }
    match gpu.vendor {
        GpuVendor::Nvidia if runtimes.iter().any(|name| name == "nvidia") => None,
        GpuVendor::Nvidia => Some(
            "the Docker Engine has no nvidia runtime: install the NVIDIA container toolkit and register it".to_owned(),
        ),
        // What a remote host has is told by its daemon, when it starts the container.
        GpuVendor::Amd if !address.starts_with("unix://") => None,
        GpuVendor::Amd => {
            let missing = nodes(gpu).into_iter().find(|node| !Path::new(node).exists())?;
            Some(format!("this host has no {missing}, which an amd GPU has: load the amdgpu driver"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(vendor: GpuVendor, devices: GpuDevices) -> GpuRequest {
        GpuRequest { vendor, devices }
    }

    fn configured(gpu: &GpuRequest) -> serde_json::Value {
        let mut config = HostConfig::default();
        add(&mut config, gpu);
        serde_json::to_value(config).unwrap()
    }

    #[test]
    fn nvidia_gpus_are_a_device_request() {
        let some = configured(&request(GpuVendor::Nvidia, GpuDevices::Count(2)));
        let expected = serde_json::json!([{
            "Driver": "nvidia", "Count": 2, "Capabilities": [["gpu", "compute", "utility"]],
        }]);
        assert_eq!(some["DeviceRequests"], expected);
        assert!(some.get("Devices").is_none());
        let these = configured(&request(GpuVendor::Nvidia, GpuDevices::Ids(vec!["0".into(), "3".into()])));
        assert_eq!(these["DeviceRequests"][0]["DeviceIDs"], serde_json::json!(["0", "3"]));
        assert!(these["DeviceRequests"][0].get("Count").is_none());
    }

    #[test]
    fn amd_gpus_are_device_nodes_and_no_others() {
        let config = configured(&request(GpuVendor::Amd, GpuDevices::Ids(vec!["0".into(), "2".into()])));
        let devices = config["Devices"].as_array().unwrap();
        let paths: Vec<_> = devices.iter().map(|device| device["PathOnHost"].as_str().unwrap()).collect();
        assert_eq!(paths, ["/dev/kfd", "/dev/dri/renderD128", "/dev/dri/renderD130"]);
        for device in devices {
            assert_eq!(device["PathInContainer"], device["PathOnHost"]);
            assert_eq!(device["CgroupPermissions"], "rw");
        }
        assert!(config.get("DeviceRequests").is_none());
    }

    #[test]
    fn a_daemon_without_the_vendors_means_refuses_and_says_what_is_missing() {
        let runtimes = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let nvidia = request(GpuVendor::Nvidia, GpuDevices::Count(1));
        assert_eq!(refusal(&nvidia, "runc", &runtimes(&["runc", "nvidia"]), "unix:///s"), None);
        assert!(refusal(&nvidia, "runc", &runtimes(&["runc"]), "unix:///s").unwrap().contains("toolkit"));
        assert!(refusal(&nvidia, "runsc", &runtimes(&["runsc", "nvidia"]), "unix:///s").unwrap().contains("runsc"));
        let absent = request(GpuVendor::Amd, GpuDevices::Ids(vec!["63".into()]));
        assert!(refusal(&absent, "runc", &[], "unix:///s").unwrap().contains("/dev/"));
        assert_eq!(refusal(&absent, "runc", &[], "tcp://far:2376"), None);
    }
}
