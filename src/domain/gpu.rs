//! GPUs, as a job type asks for them.

use serde::{Deserialize, Serialize};

/// Whose GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuVendor {
    Nvidia,
    Amd,
}

impl GpuVendor {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nvidia => "nvidia",
            Self::Amd => "amd",
        }
    }
}

/// The GPUs of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuRequest {
    pub vendor: GpuVendor,
    pub devices: GpuDevices,
}

/// Which GPUs of a vendor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuDevices {
    /// The first so many.
    Count(u32),
    /// Indices, and of NVIDIA also UUIDs like `GPU-4b…`.
    Ids(Vec<String>),
}

impl GpuVendor {
    /// Whether a text names one of the vendor's GPUs: an index from 0 to 63, or of NVIDIA a UUID as
    /// `nvidia-smi -L` prints it.
    pub fn is_device_id(self, id: &str) -> bool {
        let is_index = (1..=2).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_digit())
            && (id == "0" || !id.starts_with('0'))
            && id.parse::<u32>().is_ok_and(|index| index < 64);
        let is_uuid = |rest: &str| rest.len() == 36 && rest.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        let has_uuid = || ["GPU-", "MIG-"].iter().filter_map(|prefix| id.strip_prefix(prefix)).any(is_uuid);
        is_index || (self == Self::Nvidia && has_uuid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_an_index_or_a_uuid_of_nvidia() {
        let uuid = "GPU-4b6f1f0a-1c7e-4a0b-9f57-0123456789ab";
        for good in ["0", "7", "63", uuid, "MIG-4b6f1f0a-1c7e-4a0b-9f57-0123456789ab"] {
            assert!(GpuVendor::Nvidia.is_device_id(good), "{good}");
        }
        for bad in ["", "64", "00", "-1", "all", "0,1", "../sda", "GPU-", "GPU-4b6f1f0a/../x"] {
            assert!(!GpuVendor::Nvidia.is_device_id(bad), "{bad}");
        }
        assert!(GpuVendor::Amd.is_device_id("1") && !GpuVendor::Amd.is_device_id(uuid));
    }
}
