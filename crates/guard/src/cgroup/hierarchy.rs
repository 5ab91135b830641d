//! The hierarchies of cgroups, wherever they are mounted: cgroup2, and those of the first version that have its
//! controllers on a hybrid host.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsmount, fsopen,
};

/// Which of the trees of cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tree {
    /// cgroup2.
    Second,
    /// The one of the first version with these controllers, as `/proc/PID/cgroup` lists them: `cpu,cpuacct`.
    First(String),
}

impl Tree {
    /// The tree of the first version that has this controller, by the lines of a `/proc/PID/cgroup`. None if there is
    /// none: then cgroup2 has it, or nobody.
    pub(crate) fn first_with(controller: &str, lines: &str) -> Option<Self> {
        lines
            .lines()
            .filter_map(|line| line.split(':').nth(1))
            .find(|list| list.split(',').any(|one| one == controller))
            .map(|list| Self::First(list.to_owned()))
    }

    /// Does a process with these lines of `/proc/PID/cgroup` have a cgroup in it? Every process has one in each tree.
    pub(super) fn is_among(&self, lines: &str) -> bool {
        self.of_lines(lines).is_some()
    }

    /// Its cgroup among the lines of `/proc/PID/cgroup`.
    fn of_lines(&self, text: &str) -> Option<PathBuf> {
        let path = text.lines().find_map(|line| match self {
            Self::Second => line.strip_prefix("0::"),
            Self::First(controllers) => {
                let (_, rest) = line.split_once(':')?;
                let (list, path) = rest.split_once(':')?;
                (list == controllers).then_some(path)
            }
        })?;
        // A process may outlive its cgroup.
        Some(PathBuf::from(
            path.strip_suffix(" (deleted)").unwrap_or(path),
        ))
    }

    /// Is this what a mount table tells of its mounts?
    fn is_mounted(&self, kind: &str, superblock: &str) -> bool {
        match self {
            Self::Second => kind == "cgroup2",
            Self::First(controllers) => {
                kind == "cgroup"
                    && controllers
                        .split(',')
                        .all(|one| superblock.split(',').any(|option| option == one))
            }
        }
    }
}

/// A view of such a tree that directories can be made in.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    tree: Tree,
    top: PathBuf,
    /// Which part of the tree (of this cgroup namespace) `top` shows.
    root: PathBuf,
    /// `top` is reached through this descriptor, since no mount of the tree was visible.
    _detached: Option<OwnedFd>,
}

/// A line of mountinfo, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    root: PathBuf,
    at: PathBuf,
    writable: bool,
}

impl Hierarchy {
    /// By the mount table; where that shows no writable mount (`ip netns exec` hides it, a container
    /// shows it read-only), a mount of our own that is attached nowhere.
    pub(crate) fn find(tree: Tree) -> io::Result<Self> {
        // The one that shows most of the tree.
        let seen = visible(&tree)?.into_iter();
        match seen.min_by_key(|mount| mount.root.iter().count()) {
            Some(mount) => Ok(Self::mounted(tree, mount)),
            None => Self::detached(tree, Path::new("/")),
        }
    }

    /// The view that shows `root`, as [`Self::root`] told it in this cgroup namespace; none if that part of the
    /// tree cannot be reached from here.
    pub(crate) fn showing(tree: Tree, root: &Path) -> io::Result<Option<Self>> {
        let mut seen = visible(&tree)?.into_iter();
        if let Some(mount) = seen.find(|mount| mount.root == root) {
            return Ok(Some(Self::mounted(tree, mount)));
        }
        // Above the root of this namespace; only a mount made outside of it shows that.
        if root.iter().any(|part| part == "..") {
            return Ok(None);
        }
        Self::detached(tree, root).map(Some)
    }

    /// What this cgroup namespace has below `root`, by a mount that is attached nowhere.
    fn detached(tree: Tree, root: &Path) -> io::Result<Self> {
        let fs = match &tree {
            Tree::Second => fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?,
            Tree::First(controllers) => {
                // Asked for a tree that is not there, the kernel would make one, and take the controllers away from
                // cgroup2.
                let own = fs::read_to_string("/proc/self/cgroup")?;
                if !tree.is_among(&own) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let fs = fsopen("cgroup", FsOpenFlags::FSOPEN_CLOEXEC)?;
                for controller in controllers.split(',') {
                    fsconfig_set_flag(&fs, controller)?;
                }
                fs
            }
        };
        fsconfig_create(&fs)?;
        let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let top = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        Ok(Self {
            tree,
            top: top.join(root.strip_prefix("/").unwrap_or(root)),
            root: root.to_owned(),
            _detached: Some(mount),
        })
    }

    fn mounted(tree: Tree, mount: Mount) -> Self {
        Self {
            tree,
            top: mount.at,
            root: mount.root,
            _detached: None,
        }
    }

    /// Which part of the tree (of this cgroup namespace) is seen.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path in this process for a path below the mount.
    pub(crate) fn at(&self, relative: &Path) -> PathBuf {
        self.top.join(relative)
    }

    /// A path in the tree (of this cgroup namespace), below the mount; the top stands for what lies outside of that.
    pub(crate) fn below(&self, inside: &Path) -> PathBuf {
        below(inside, &self.root)
    }

    /// The caller's own cgroup, below the mount.
    pub(crate) fn own(&self) -> io::Result<PathBuf> {
        self.of("self")
    }

    /// The cgroup of a process, below the mount.
    pub(crate) fn of(&self, process: &str) -> io::Result<PathBuf> {
        let text = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
        // None: a kernel without cgroup2 has no such line.
        let path = self
            .tree
            .of_lines(&text)
            .ok_or(io::ErrorKind::Unsupported)?;
        Ok(below(&path, &self.root))
    }
}

/// The inode of the caller's cgroup namespace: paths mean something within one only.
pub(super) fn namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/cgroup")?.ino())
}

/// Where in the tree of cgroup2 (of this cgroup namespace) a directory of a mount of it lies; none if no mount shows it.
pub(super) fn inside(directory: &Path) -> Option<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = mounts(&Tree::Second, &table).into_iter();
    let holding = mounts.filter(|mount| directory.starts_with(&mount.at) && mount.is_on_top());
    let mount = holding.max_by_key(|mount| mount.at.iter().count())?;
    Some(mount.root.join(directory.strip_prefix(&mount.at).ok()?))
}

/// The writable mounts of the tree.
fn visible(tree: &Tree) -> io::Result<Vec<Mount>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut seen = mounts(tree, &table);
    seen.retain(|mount| mount.writable && mount.is_on_top());
    Ok(seen)
}

impl Mount {
    /// The table also lists mounts that a later one hides: their paths lead into that one.
    fn is_on_top(&self) -> bool {
        match statx(CWD, &self.at, AtFlags::empty(), StatxFlags::MNT_ID) {
            // Before 5.8 the kernel does not tell.
            Ok(found) if found.stx_mask & StatxFlags::MNT_ID.bits() == 0 => self.at.is_dir(),
            Ok(found) => found.stx_mnt_id == self.id,
            Err(_) => false,
        }
    }
}

/// `path` as seen below a mount that shows `root`. What lies outside of the mount cannot be named there:
/// the top stands for it.
fn below(path: &Path, root: &Path) -> PathBuf {
    match path.strip_prefix(root) {
        Ok(rest) if !rest.iter().any(|part| part == "..") => rest.to_owned(),
        _ => PathBuf::new(),
    }
}

/// The tree's mounts in a mount table.
fn mounts(tree: &Tree, table: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let kind = right.next()?;
        let superblock = right.nth(1)?;
        if !tree.is_mounted(kind, superblock) {
            return None;
        }
        let mut left = left.split(' ');
        let id = left.next()?.parse().ok()?;
        let mut left = left.skip(2);
        let (root, at, options) = (left.next()?, left.next()?, left.next()?);
        let writable = [options, superblock]
            .iter()
            .all(|list| list.split(',').any(|option| option == "rw"));
        Some(Mount {
            id,
            root: unescape(root).into(),
            at: unescape(at).into(),
            writable,
        })
    };
    table.lines().filter_map(mount).collect()
}

/// The mount table writes blanks, tabs, line ends and backslashes as `\ooo`.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unified_hybrid_and_container_mounts_are_found() {
        let table = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
42 31 0:39 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
43 31 0:40 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
52 50 0:38 /docker/a\\040b /mnt/my\\011cg ro,nosuid - cgroup2 cgroup rw
short line
";
        assert_eq!(
            mounts(&Tree::Second, table),
            [
                Mount {
                    id: 41,
                    root: "/".into(),
                    at: "/sys/fs/cgroup/unified".into(),
                    writable: true
                },
                Mount {
                    id: 52,
                    root: "/docker/a b".into(),
                    at: "/mnt/my\tcg".into(),
                    writable: false
                },
            ]
        );
        let first = |list: &str| {
            let found = mounts(&Tree::First(list.to_owned()), table);
            found.into_iter().map(|mount| mount.at).collect::<Vec<_>>()
        };
        assert_eq!(
            first("cpu,cpuacct"),
            [Path::new("/sys/fs/cgroup/cpu,cpuacct")]
        );
        assert_eq!(first("memory"), [Path::new("/sys/fs/cgroup/memory")]);
        assert_eq!(first("pids"), [] as [&Path; 0]);
    }

    #[test]
    fn own_path_is_told_below_the_mount() {
        let lines = "5:cpu,cpuacct:/y\n4:memory:/x\n1:name=systemd:/z\n0::/a/b\n";
        let second = |text| Tree::Second.of_lines(text);
        assert_eq!(second(lines).unwrap(), Path::new("/a/b"));
        assert_eq!(second("0::/a (deleted)\n").unwrap(), Path::new("/a"));
        assert_eq!(second("4:memory:/x\n"), None);
        for (controller, tree, path) in [
            ("memory", "memory", "/x"),
            ("cpu", "cpu,cpuacct", "/y"),
            ("cpuacct", "cpu,cpuacct", "/y"),
        ] {
            let found = Tree::first_with(controller, lines).unwrap();
            assert_eq!(found, Tree::First(tree.to_owned()));
            assert_eq!(found.of_lines(lines).unwrap(), Path::new(path));
        }
        // In cgroup2, or nowhere.
        assert_eq!(Tree::first_with("pids", lines), None);
        assert_eq!(below(Path::new("/a/b"), Path::new("/")), Path::new("a/b"));
        assert_eq!(
            below(Path::new("/docker/1/x"), Path::new("/docker/1")),
            Path::new("x")
        );
        assert_eq!(
            below(Path::new("/other"), Path::new("/docker/1")),
            Path::new("")
        );
        // Seen from inside a cgroup namespace that the process is not in.
        assert_eq!(below(Path::new("/../x"), Path::new("/")), Path::new(""));
    }

    #[test]
    fn a_detached_mount_shows_the_tree() {
        crate::need_root();
        let whole = Hierarchy::detached(Tree::Second, Path::new("/")).unwrap();
        assert!(whole.at(Path::new("cgroup.procs")).exists());
        let outside = Hierarchy::showing(Tree::Second, Path::new("/../x"));
        assert!(outside.unwrap().is_none());
    }

    #[test]
    fn a_tree_of_the_first_version_is_found_and_never_made() {
        crate::need_root();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        for controller in ["memory", "cpu", "pids"] {
            let Some(tree) = Tree::first_with(controller, &own) else {
                continue;
            };
            let hidden = Hierarchy::detached(tree.clone(), Path::new("/")).unwrap();
            assert!(hidden.at(Path::new("tasks")).exists(), "{tree:?}");
            assert_eq!(
                hidden.own().unwrap(),
                Hierarchy::find(tree).unwrap().own().unwrap()
            );
        }
        let none = Tree::First("no_such_controller".to_owned());
        assert!(Hierarchy::find(none).is_err());
        assert_eq!(fs::read_to_string("/proc/self/cgroup").unwrap(), own);
    }
}
