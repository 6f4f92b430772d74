//! Control groups, version 1 and 2: how much memory this process's own group and those around it may take, and where it
//! says how much of it sockets have.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// At least this much is what version 1 says for "no limit".
const UNLIMITED: u64 = 1 << 60;

/// The groups of this process that memory is counted in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Groups {
    /// The smallest limit of all of them, in bytes.
    pub(super) limit: Option<u64>,
    /// The file with the bytes of sockets, of the innermost group.
    pub(super) sockets: Option<PathBuf>,
}

/// What a version calls the files.
struct Names {
    limit: &'static str,
    sockets: &'static str,
}

const V1: Names = Names { limit: "memory.limit_in_bytes", sockets: "memory.kmem.tcp.usage_in_bytes" };
const V2: Names = Names { limit: "memory.max", sockets: "memory.stat" };

impl Groups {
    /// Those that `own`, which is what `/proc/self/cgroup` holds, names under the mount point `root`.
    pub(super) fn find(own: &str, root: &Path) -> Groups {
        let mut groups = Groups { limit: None, sockets: None };
        for line in own.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            if controllers.is_empty() {
                groups.walk(root, path, &V2);
            } else if controllers.split(',').any(|controller| controller == "memory") {
                groups.walk(&root.join("memory"), path, &V1);
            }
        }
        groups
    }

    /// From the innermost group outwards. In a container the path may be one of the host's: then the mount point itself is
    /// the container's group.
    fn walk(&mut self, mount: &Path, path: &str, names: &Names) {
        let inner = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_)));
        let innermost = mount.join(inner.collect::<PathBuf>());
        for group in innermost.ancestors().take_while(|group| group.starts_with(mount)) {
            let Ok(limit) = fs::read_to_string(group.join(names.limit)) else { continue };
            // It is "max" where version 2 has none.
            let limit = limit.trim().parse().ok().filter(|limit| *limit < UNLIMITED);
            self.limit = self.limit.into_iter().chain(limit).min();
            self.sockets.get_or_insert_with(|| group.join(names.sockets));
        }
    }
}

/// The bytes of sockets in the contents of [`Groups::sockets`].
pub(super) fn socket_bytes(text: &str) -> u64 {
    let of_v2 = text.lines().find_map(|line| line.strip_prefix("sock "));
    of_v2.unwrap_or(text).trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like the mount point of control groups.
    fn mounted(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        root
    }

    fn limit(own: &str, files: &[(&str, &str)]) -> Option<u64> {
        Groups::find(own, mounted(files).path()).limit
    }

    #[test]
    fn the_smallest_limit_of_the_groups_around_a_process_holds() {
        let v2 = [
            ("memory.max", "900\n"),
            ("a/memory.max", "500\n"),
            ("a/b/memory.max", "max\n"),
            ("c/memory.max", "1\n"),
        ];
        assert_eq!(limit("0::/a/b\n", &v2), Some(500));
        assert_eq!(limit("0::/a/b\n", &v2[2..]), None);
        let v1 = [
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/a/memory.limit_in_bytes", "700\n"),
        ];
        assert_eq!(limit("5:cpu,cpuacct:/x\n4:hugetlb,memory:/a\n0::/\n", &v1), Some(700));
        assert_eq!(limit("4:memory:/\n", &v1), None);
    }

    #[test]
    fn in_a_container_the_mount_point_is_its_group() {
        let files =
            [("memory/memory.limit_in_bytes", "700"), ("memory/memory.kmem.tcp.usage_in_bytes", "42")];
        let root = mounted(&files);
        let groups = Groups::find("4:memory:/docker/0123\n", root.path());
        assert_eq!(groups.limit, Some(700));
        let sockets = fs::read_to_string(groups.sockets.expect("named")).expect("it is there");
        assert_eq!(socket_bytes(&sockets), 42);
        assert_eq!(limit("0::/../../elsewhere\n", &[("memory.max", "800")]), Some(800));
    }

    #[test]
    fn what_is_not_understood_is_no_limit() {
        for own in ["", "\n", "::", "0:", "4:memory", "0::/\n"] {
            assert_eq!(limit(own, &[("memory.max", "nonsense")]), None, "{own:?}");
        }
    }

    #[test]
    fn the_bytes_of_sockets_are_read_in_either_form() {
        assert_eq!(socket_bytes("123\n"), 123);
        assert_eq!(socket_bytes("anon 5\nfile 6\nsock 77\nshmem 8\n"), 77);
        assert_eq!(socket_bytes("anon 5\n"), 0);
    }
}
