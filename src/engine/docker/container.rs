//! What a sandbox is as a container: every limit and every lock, in one place.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, ResourcesUlimits,
};

use super::config::GVISOR;
use super::gpu;
use crate::engine::{SandboxLabels, SandboxLimits, SandboxSpec};

/// What the guest needs to become another user, to signal and to read that user's files.
/// User code has none of them: it loses all on the change of user.
const GUEST_CAPABILITIES: [&str; 5] = ["SETUID", "SETGID", "SETPCAP", "KILL", "DAC_READ_SEARCH"];

/// Space for `/code`, which holds one file, for `/secrets`, and the most for `/input`; bytes.
const CODE_BYTES: u64 = 4 << 20;
const INPUT_BYTES: u64 = 128 << 20;

/// The span in which the processor share is counted, microseconds.
const CPU_PERIOD_US: i64 = 100_000;

/// What a sandbox sees as empty: Docker's own list, which this one replaces, and what else tells
/// of the host.
const MASKED_PATHS: [&str; 15] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/bus",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel/debug",
];

const INSTALLATION: &str = "tako-vm.installation";
const NODE: &str = "tako-vm.node";
const EXECUTION: &str = "tako-vm.execution";
const LEASE: &str = "tako-vm.lease";

/// What is the same for all sandboxes of an engine.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub runtime: String,
    /// The seccomp profile, as this daemon wants it.
    pub seccomp: String,
    /// The daemon is Podman, whose tmpfs have no limit of inodes; their files count as memory.
    pub podman: bool,
}

/// The label filter that finds the sandboxes of an installation.
pub(super) fn installation_filter(installation: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{INSTALLATION}={installation}")])])
}

/// The request that creates a sandbox.
pub(super) fn body(spec: &SandboxSpec, terms: &Terms) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(spec.image.digest.clone()),
        entrypoint: Some(vec!["/tako/guest".to_owned(), "init".to_owned()]),
        cmd: Some(Vec::new()),
        user: Some("0:0".to_owned()),
        working_dir: Some("/".to_owned()),
        hostname: Some("sandbox".to_owned()),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        open_stdin: Some(true),
        // The end of the host's stream is the guest's sign to end.
        stdin_once: Some(true),
        tty: Some(false),
        // Beyond mode `none`: the daemon sets up no network sandbox at all, which was more than
        // half of a container's start. It then writes no /etc/hosts either, so the loopback
        // interface has an address and no name.
        network_disabled: Some(true),
        labels: Some(labels(&spec.labels)),
        host_config: Some(host_config(spec, terms)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(spec: &SandboxSpec, Terms { runtime, seccomp, podman }: &Terms) -> HostConfig {
    let limits = &spec.limits;
    let memory = saturate(limits.memory_bytes);
    let mut config = HostConfig {
        runtime: Some(runtime.clone()),
        network_mode: Some("none".to_owned()),
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(GUEST_CAPABILITIES.map(str::to_owned).to_vec()),
        security_opt: Some(vec!["no-new-privileges:true".to_owned(), format!("seccomp={seccomp}")]),
        memory: Some(memory),
        // The same as memory, which leaves no swap.
        memory_swap: Some(memory),
        // Not `nano_cpus`, which refuses more processors than the host has.
        cpu_period: Some(CPU_PERIOD_US),
        cpu_quota: Some((i64::from(limits.cpu_millis) * CPU_PERIOD_US / 1000).max(1000)),
        pids_limit: Some(i64::from(limits.pids) + gvisor_threads(limits, runtime)),
        ulimits: Some(vec![ResourcesUlimits { name: Some("core".to_owned()), soft: Some(0), hard: Some(0) }]),
        tmpfs: Some(tmpfs(limits, *podman)),
        // A namespace of its own without Docker's /dev/shm, whose inodes cannot be limited;
        // `tmpfs` mounts one.
        ipc_mode: Some("none".to_owned()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        masked_paths: Some(MASKED_PATHS.map(str::to_owned).to_vec()),
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: Some(HashMap::new()) }),
        init: Some(false),
        auto_remove: Some(false),
        privileged: Some(false),
        ..HostConfig::default()
    };
    if let Some(gpu) = &spec.gpu {
        gpu::add(&mut config, gpu);
    }
    config
}

/// Threads on the host that gVisor may have beside the job's own: its kernel's, and several for
/// each process of the job (a fork bomb of 64 had 449 at most). Were there one too few, the kernel
/// itself would end, and with it the sandbox. The job's processes are limited by that kernel.
fn gvisor_threads(limits: &SandboxLimits, runtime: &str) -> i64 {
    if runtime == GVISOR { 256 + 16 * i64::from(limits.pids) } else { 0 }
}

fn tmpfs(limits: &SandboxLimits, podman: bool) -> HashMap<String, String> {
    let mount = |bytes: u64, mode: &str| {
        let inodes = if podman { String::new() } else { format!(",nr_inodes={}", limits.inodes) };
        format!("rw,nosuid,nodev,noexec,size={bytes}{inodes},mode={mode}")
    };
    HashMap::from([
        ("/code".to_owned(), mount(CODE_BYTES.min(limits.memory_bytes), "0755")),
        ("/secrets".to_owned(), mount(CODE_BYTES.min(limits.memory_bytes), "0755")),
        ("/input".to_owned(), mount(INPUT_BYTES.min(limits.memory_bytes), "0755")),
        ("/output".to_owned(), mount(limits.output_bytes, "1777")),
        ("/tmp".to_owned(), mount(limits.tmp_bytes, "1777")),
        ("/dev/shm".to_owned(), mount(limits.tmp_bytes, "1777")),
    ])
}

fn labels(labels: &SandboxLabels) -> HashMap<String, String> {
    let mut map = HashMap::from([
        (INSTALLATION.to_owned(), labels.installation.clone()),
        (NODE.to_owned(), labels.node_id.clone()),
    ]);
    if let Some(execution) = &labels.execution_id {
        map.insert(EXECUTION.to_owned(), execution.clone());
    }
    if let Some(lease) = labels.lease {
        map.insert(LEASE.to_owned(), lease.to_string());
    }
    map
}

/// Reads labels back; `None` for a container that is not ours.
pub(super) fn parse_labels(map: &HashMap<String, String>) -> Option<SandboxLabels> {
    Some(SandboxLabels {
        installation: map.get(INSTALLATION)?.clone(),
        node_id: map.get(NODE)?.clone(),
        execution_id: map.get(EXECUTION).cloned(),
        lease: map.get(LEASE).and_then(|lease| lease.parse().ok()),
    })
}

fn saturate(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{GpuDevices, GpuRequest, GpuVendor};

    #[test]
    fn labels_read_back() {
        let full = SandboxLabels {
            installation: "one".to_owned(),
            node_id: "node-a".to_owned(),
            execution_id: Some("0190".to_owned()),
            lease: Some(7),
        };
        assert_eq!(parse_labels(&labels(&full)), Some(full.clone()));
        let pooled = SandboxLabels { execution_id: None, lease: None, ..full };
        assert_eq!(parse_labels(&labels(&pooled)), Some(pooled));
        assert_eq!(parse_labels(&HashMap::new()), None);
    }

    #[test]
    fn a_gpu_opens_nothing_but_its_devices() {
        let limits = SandboxLimits {
            memory_bytes: 1 << 30,
            cpu_millis: 1000,
            pids: 64,
            open_files: 256,
            file_bytes: 1 << 20,
            tmp_bytes: 1 << 20,
            output_bytes: 1 << 20,
            inodes: 100,
        };
        let labels = SandboxLabels { installation: "one".into(), node_id: "a".into(), execution_id: None, lease: None };
        let mut spec = SandboxSpec {
            image: crate::engine::Image { reference: "image".into(), digest: "sha256:0".into() },
            limits,
            environment: Default::default(),
            preload: Vec::new(),
            gpu: None,
            startup_timeout: std::time::Duration::from_secs(1),
            labels,
        };
        let terms = Terms { runtime: "runc".into(), seccomp: String::new(), podman: false };
        let plain = serde_json::to_value(body(&spec, &terms)).unwrap();
        for vendor in [GpuVendor::Nvidia, GpuVendor::Amd] {
            spec.gpu = Some(GpuRequest { vendor, devices: GpuDevices::Count(1) });
            let mut with_gpu = serde_json::to_value(body(&spec, &terms)).unwrap();
            let config = with_gpu["HostConfig"].as_object_mut().unwrap();
            let added = [config.remove("DeviceRequests"), config.remove("Devices")];
            assert_eq!(added.iter().flatten().count(), 1, "{vendor:?}");
            assert_eq!(with_gpu, plain, "{vendor:?}");
        }
    }

    #[test]
    fn the_seccomp_profile_denies_unless_it_allows() {
        let profile: serde_json::Value = serde_json::from_str(super::super::seccomp::PROFILE).unwrap();
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        let denied = [
            "ptrace",
            "keyctl",
            "add_key",
            "bpf",
            "userfaultfd",
            "io_uring_setup",
            "unshare",
            "setns",
            "mount",
            "umount2",
            "pivot_root",
            "clone3",
            "process_vm_readv",
            "perf_event_open",
            "init_module",
            "kexec_load",
            "open_by_handle_at",
            "chroot",
        ];
        for rule in profile["syscalls"].as_array().unwrap() {
            if rule["action"] == "SCMP_ACT_ALLOW" {
                for name in rule["names"].as_array().unwrap() {
                    assert!(!denied.contains(&name.as_str().unwrap()), "{name} is allowed");
                }
            }
        }
    }
}
