//! Where cgroup2 and bpffs are mounted: read from the mount table, never assumed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::{Cgroup2, Cgroup2Mount};

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// The file system, as the table numbers it.
    device: String,
    /// What part of the file system is shown there.
    root: PathBuf,
    /// Where.
    at: PathBuf,
    /// Read-only, by the mount or by the file system.
    read_only: bool,
    /// File system type.
    kind: String,
}

impl Mount {
    pub(super) fn whereabouts(self) -> (String, PathBuf) {
        (self.kind, self.at)
    }
}

/// The mount table as this process sees it.
pub(super) fn mounts() -> Option<Vec<Mount>> {
    Some(parse(&fs::read_to_string("/proc/self/mountinfo").ok()?))
}

/// Where else a file is to be seen whose path has no link in it, by other mounts of what it lies in. By the table alone: what
/// is mounted over such a place hides it.
pub(super) fn places(mounts: &[Mount], file: &Path) -> Vec<PathBuf> {
    let over = |mount: &&Mount| file.starts_with(&mount.at);
    // Of those at one place, the last.
    let Some(mount) = mounts
        .iter()
        .filter(over)
        .max_by_key(|one| one.at.as_os_str().len())
    else {
        return Vec::new();
    };
    let below = |path: &Path, root: &Path| {
        let rest = path.strip_prefix(root).ok()?;
        Some(rest.to_owned())
    };
    let join = |root: &Path, rest: &Path| match rest.as_os_str().is_empty() {
        true => root.to_owned(),
        false => root.join(rest),
    };
    let Some(inside) = below(file, &mount.at).map(|rest| join(&mount.root, &rest)) else {
        return Vec::new();
    };
    let same = mounts.iter().filter(|one| one.device == mount.device);
    let mut places: Vec<_> = same
        .filter_map(|one| Some(join(&one.at, &below(&inside, &one.root)?)))
        .filter(|place| place != file)
        .collect();
    places.sort();
    places.dedup();
    places
}

/// Lines that are not as proc(5) says are left out.
fn parse(mountinfo: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut fields = mount.split(' ').skip(2);
            let device = fields.next()?.to_owned();
            let (root, at, options) = (fields.next()?, fields.next()?, fields.next()?);
            let mut of_fs = file_system.split(' ');
            let (kind, super_options) = (of_fs.next()?, of_fs.nth(1).unwrap_or(""));
            let is_ro = |list: &str| list.split(',').any(|option| option == "ro");
            Some(Mount {
                device,
                root: unescape(root),
                at: unescape(at),
                read_only: is_ro(options) || is_ro(super_options),
                kind: kind.to_owned(),
            })
        })
        .collect()
}

/// The mount table writes blanks and backslashes as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match tail {
            [
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ] if *first == b'\\' => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// The cgroup2 mount that serves best, and what can be done there.
pub(super) fn cgroup2(mounts: Option<&[Mount]>) -> Cgroup2 {
    let Some(mounts) = mounts else {
        return Cgroup2::Unknown;
    };
    let Some(mount) = best(mounts) else {
        return Cgroup2::Absent;
    };
    Cgroup2::Mounted(Cgroup2Mount {
        path: mount.at.clone(),
        hybrid: mounts.iter().any(|mount| mount.kind == "cgroup"),
        read_only: mount.read_only,
        controllers: fs::read_to_string(mount.at.join("cgroup.controllers"))
            .ok()
            .map(|list| {
                list.split_whitespace()
                    .map(str::to_owned)
                    .collect::<BTreeSet<_>>()
            }),
        kill: has_kill(&mount.at),
    })
}

/// Writable before read-only, the whole tree before a part of it, then the shortest path. Of mounts
/// stacked on one path only the last is visible, so among equals the last wins.
fn best(mounts: &[Mount]) -> Option<&Mount> {
    mounts
        .iter()
        .rev()
        .filter(|mount| mount.kind == "cgroup2")
        .min_by_key(|mount| {
            (
                mount.read_only,
                mount.root != Path::new("/"),
                mount.at.as_os_str().len(),
            )
        })
}

/// The root cgroup has no `cgroup.kill`, so look at the mount point (in a container that is no root)
/// and then at any child.
fn has_kill(mount: &Path) -> Option<bool> {
    if mount.join("cgroup.kill").exists() {
        return Some(true);
    }
    if mount.join("cgroup.type").exists() {
        return Some(false);
    }
    let child = fs::read_dir(mount)
        .ok()?
        .flatten()
        .find(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))?;
    Some(child.path().join("cgroup.kill").exists())
}

/// A writable bpffs; the customary place first.
pub(super) fn bpffs(mounts: &[Mount]) -> Option<PathBuf> {
    mounts
        .iter()
        .filter(|mount| mount.kind == "bpf" && !mount.read_only)
        .min_by_key(|mount| {
            (
                mount.at != Path::new("/sys/fs/bpf"),
                mount.at.as_os_str().len(),
            )
        })
        .map(|mount| mount.at.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
22 1 0:21 / / rw - ext4 /dev/root rw
30 22 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
32 30 0:28 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
33 22 0:29 /lib/pod /mnt/a\\040b ro,relatime - cgroup2 cgroup2 rw
34 22 0:30 / /sys/fs/bpf rw,relatime - bpf bpf rw,mode=700
";

    #[test]
    fn the_whole_writable_tree_is_preferred() {
        let mounts = parse(HYBRID);
        assert_eq!(
            best(&mounts).unwrap().at,
            Path::new("/sys/fs/cgroup/unified")
        );
        let Cgroup2::Mounted(found) = cgroup2(Some(&mounts)) else {
            panic!("not found")
        };
        assert!(found.hybrid);
        assert!(!found.read_only);
    }

    #[test]
    fn blanks_in_mount_points_are_unescaped() {
        assert!(
            parse(HYBRID)
                .iter()
                .any(|mount| mount.at == Path::new("/mnt/a b") && mount.read_only)
        );
        assert_eq!(unescape("a\\134b\\04"), Path::new("a\\b\\04"));
    }

    #[test]
    fn absent_is_not_unknown() {
        let none = parse("22 1 0:21 / / rw - ext4 /dev/root rw\n");
        assert_eq!(cgroup2(Some(&none)), Cgroup2::Absent);
        assert_eq!(cgroup2(None), Cgroup2::Unknown);
        assert_eq!(bpffs(&none), None);
    }

    #[test]
    fn bpffs_is_found() {
        assert_eq!(
            bpffs(&parse(HYBRID)).as_deref(),
            Some(Path::new("/sys/fs/bpf"))
        );
    }

    #[test]
    fn torn_lines_are_left_out() {
        assert_eq!(parse("31 30 0:27 /\n - \nx - y\n"), []);
    }

    #[test]
    fn a_file_is_found_wherever_what_it_lies_in_is_mounted() {
        let mounts = parse(
            "22 1 254:0 / / rw - ext4 /dev/vda rw\n\
             23 22 0:25 / /run rw - tmpfs run rw\n\
             24 22 0:25 / /srv/root/run rw - tmpfs run rw\n\
             25 22 0:25 /docker.sock /srv/it.sock rw - tmpfs run rw\n\
             26 22 0:25 /other /srv/other rw - tmpfs run rw\n\
             27 22 254:0 /srv /mnt rw - ext4 /dev/vda rw\n",
        );
        let of = |file: &str| {
            let places = places(&mounts, Path::new(file));
            places
                .iter()
                .map(|at| at.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of("/run/docker.sock"),
            ["/srv/it.sock", "/srv/root/run/docker.sock"]
        );
        assert_eq!(
            of("/srv/it.sock"),
            ["/run/docker.sock", "/srv/root/run/docker.sock"]
        );
        assert_eq!(
            of("/run/other/x"),
            ["/srv/other/x", "/srv/root/run/other/x"]
        );
        assert_eq!(of("/srv/x"), ["/mnt/x"]);
        assert_eq!(of("/etc/x"), Vec::<String>::new());
    }
}
