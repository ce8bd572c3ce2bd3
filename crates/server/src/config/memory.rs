//! How much memory this process may use: the limit of its control groups, or the memory of the machine.

use std::path::{Path, PathBuf};

use procfs::Current as _;

/// Where control groups are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// Part of the memory that may be held for clients unless set otherwise: one in so many. The rest is for sockets
/// themselves, for caches, and for what the allocator keeps.
const SHARE: usize = 3;

/// Assumed memory if nothing tells how much there is.
const UNKNOWN: usize = 1 << 30;

/// Bytes that may be held for clients unless set otherwise.
#[must_use]
pub fn default_client_bytes() -> usize {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let machine = procfs::Meminfo::current().ok().and_then(|memory| usize::try_from(memory.mem_total).ok());
    let allowed = [allowed(&groups, Path::new(ROOT)), machine];
    allowed.into_iter().flatten().min().unwrap_or(UNKNOWN) / SHARE
}

/// The smallest limit of the process's control group and of those above it, in bytes. `groups`: the text of
/// `/proc/self/cgroup`.
fn allowed(groups: &str, root: &Path) -> Option<usize> {
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        if controllers.is_empty() {
            return least(root, path, "memory.max");
        }
        let memory = controllers.split(',').any(|controller| controller == "memory");
        memory.then(|| least(&root.join("memory"), path, "memory.limit_in_bytes"))?
    });
    limits.min()
}

/// The smallest number in files of this name, from the root down to the path. In a container the path may end early or
/// be missing.
fn least(root: &Path, path: &str, file: &str) -> Option<usize> {
    let mut folder = PathBuf::from(root);
    let mut folders = vec![folder.clone()];
    for part in path.split('/').filter(|part| !part.is_empty() && *part != "..") {
        folder.push(part);
        folders.push(folder.clone());
    }
    let limit = |folder: &PathBuf| std::fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok();
    folders.iter().filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/memory.max", "max\n");
        write("a/b/memory.max", "300\n");
        write("a/b/c/memory.max", "400\n");
        assert_eq!(allowed("0::/a/b/c\n", root.path()), Some(300));
        assert_eq!(allowed("0::/a\n", root.path()), None);
        assert_eq!(allowed("0::/../a/b\n", root.path()), Some(300));

        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/docker/x/memory.limit_in_bytes", "200\n");
        let both = "5:cpu,cpuacct:/y\n4:memory:/docker/x\n0::/\n";
        assert_eq!(allowed(both, root.path()), Some(200));
        write("memory.max", "100\n");
        assert_eq!(allowed(both, root.path()), Some(100));
        assert_eq!(allowed("", root.path()), None);
        assert!(default_client_bytes() > 0);
    }
}
