//! Where cgroup hierarchies are mounted, from `/proc/self/mountinfo`.

use std::path::PathBuf;

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub path: PathBuf,
    /// The group that the path shows: the top of the hierarchy, as far as this process sees it, or one below.
    pub root: PathBuf,
    /// Controllers of a v1 hierarchy; `None` for v2.
    pub controllers: Option<Vec<String>>,
}

/// Reads the cgroup mounts of a `mountinfo`, in their order (`proc_pid_mountinfo(5)`).
pub fn parse(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3).map(PathBuf::from);
    let (root, path) = (place.next()?, place.next()?);
    let mut kind = kind.split(' ');
    let controllers = match kind.next()? {
        "cgroup2" => None,
        "cgroup" => Some(kind.nth(1)?.split(',').map(str::to_owned).collect()),
        _ => return None,
    };
    Some(Mount { path, root, controllers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_told_apart() {
        let mounts = parse(
            "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
             35 31 0:32 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        assert_eq!(mounts.len(), 2);
        let controllers = mounts[0].controllers.clone().unwrap();
        assert!(controllers.iter().any(|name| name == "cpu"));
        assert_eq!(mounts[1].path, PathBuf::from("/sys/fs/cgroup/unified"));
        assert_eq!(mounts[1].root, PathBuf::from("/"));
        assert_eq!(mounts[1].controllers, None);
    }
}
