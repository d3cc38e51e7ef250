//! What sandboxes could leave on the host, looked for by the names the host has for them.
//!
//! Other tests and other programs run on the machine at the same time. So nothing exact is
//! concluded from totals: each container's id and file system and each cell's cgroups are
//! looked for by name, processes by their cgroups and by what they were started with.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::arena::{Arena, Place};

/// How long traces may take to vanish. Docker's shims and unmounts end after its answers do.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much more memory may be held without a process in the end. One sandbox of this suite could
/// keep less, but all together ten times as much.
const MEMORY_MARGIN_BYTES: u64 = 512 << 20;

const DOCKER_ROOT: &str = "/var/lib/docker";

pub struct Remains {
    place: Place,
    /// What the host calls the sandboxes: ids of containers and of their file systems, names of
    /// cells.
    marks: Mutex<BTreeSet<String>>,
    memory_before: u64,
}

impl Remains {
    pub fn of(arena: &Arena) -> Self {
        let marks = match arena.place {
            Place::Native => BTreeSet::from([arena.mark.clone()]),
            Place::Runc | Place::Runsc => BTreeSet::new(),
        };
        Self { place: arena.place, marks: Mutex::new(marks), memory_before: memory_of_nobody() }
    }

    /// Remembers a sandbox while it is there.
    pub fn note(&self, id: &str) {
        if self.place == Place::Native {
            return;
        }
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.insert(id.to_owned());
        for driver in entries(&Path::new(DOCKER_ROOT).join("image")) {
            // Its writable file system has an id of its own.
            marks.extend(fs::read_to_string(driver.join("layerdb/mounts").join(id).join("mount-id")));
        }
    }

    /// What is left, after everything had time to go.
    pub async fn look(&mut self, arena: &Arena) -> Vec<String> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let left = self.traces(arena).await;
            if left.is_empty() || Instant::now() >= give_up {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn traces(&mut self, arena: &Arena) -> Vec<String> {
        let mut left = Vec::new();
        match arena.engine.list(arena.installation()).await {
            Ok(sandboxes) => left.extend(sandboxes.iter().map(|(id, _)| format!("sandbox {id} is left"))),
            Err(error) => left.push(format!("sandboxes cannot be listed: {error}")),
        }
        let marks = self.marks.get_mut().unwrap_or_else(PoisonError::into_inner);
        if marks.is_empty() {
            left.push("no sandbox was noted".to_owned());
        }
        let is_marked = |text: &str| marks.iter().any(|mark| text.contains(mark.as_str()));
        for process in entries(Path::new("/proc")) {
            let command = fs::read(process.join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let groups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
            if is_marked(&command) || is_marked(&groups) {
                left.push(format!("process {command} is left"));
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        left.extend(mounts.lines().filter(|line| is_marked(line)).map(|line| format!("mount {line} is left")));
        let mut folders = below(Path::new("/sys/fs/cgroup"), 4);
        for place in ["/var/lib/docker", "/run/docker", "/run/containerd", "/tmp"] {
            folders.extend(below(Path::new(place), if place == "/tmp" { 1 } else { 2 }));
        }
        let named =
            folders.iter().filter(|path| path.file_name().is_some_and(|name| is_marked(&name.to_string_lossy())));
        left.extend(named.map(|path| format!("{} is left", path.display())));
        let kept = memory_of_nobody().saturating_sub(self.memory_before);
        if kept > MEMORY_MARGIN_BYTES {
            left.push(format!("{kept} bytes of memory are held by no process"));
        }
        left
    }
}

/// Bytes in memory file systems, shared memory and the kernel's own structures: all that can stay
/// when every process is gone.
fn memory_of_nobody() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix("kB"));
        line.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    (kib("Shmem:") + kib("SUnreclaim:") + kib("KernelStack:")) << 10
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Folders below one, so many levels down.
fn below(folder: &Path, levels: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in entries(folder) {
        if fs::symlink_metadata(&path).is_ok_and(|kind| kind.is_dir()) {
            if levels > 1 {
                found.extend(below(&path, levels - 1));
            }
            found.push(path);
        }
    }
    found
}
