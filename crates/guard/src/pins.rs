//! Where a run's programs and maps are pinned, so that they outlive the supervisor.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, mkdirat, open, openat, statfs};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::geteuid;

/// What statfs says of a bpffs.
const BPF_MAGIC: u64 = 0xcafe_4a11;

const USUAL: &str = "/sys/fs/bpf";
const OURS: &str = "blackstart";
const PRIVATE: &str = "bpf";

/// Make a run's directory on a bpffs: the usual one, or, where the host shows none that is fit for it
/// (`ip netns exec` hides it; others may write to it), a private one. Only while holding the common
/// lock: another run's end may tidy.
pub(crate) fn create(id: &str, run_dir: &Path) -> io::Result<PathBuf> {
    create_on(Path::new(USUAL), id).or_else(|error| {
        tracing::info!(%error, "{USUAL} is not used");
        create_private(id, run_dir)
    })
}

/// The same on a bpffs of the run's own, mounted in its directory. Not shared between runs: where another
/// mount namespace has a mount on a directory, removing that directory here would take the mount away there.
pub(crate) fn create_private(id: &str, run_dir: &Path) -> io::Result<PathBuf> {
    let own = run_dir.join(PRIVATE);
    fs::create_dir_all(&own)?;
    mount(
        "bpf",
        &own,
        "bpf",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        Some(c"mode=0700"),
    )?;
    create_on(&own, id)
}

fn create_on(bpffs: &Path, id: &str) -> io::Result<PathBuf> {
    if !is_bpffs(bpffs) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    match fs::DirBuilder::new().mode(0o700).create(bpffs.join(OURS)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let held = ours_on(bpffs)?;
    mkdirat(&held, id, Mode::RWXU)?;
    Ok(bpffs.join(OURS).join(id))
}

/// The directory that holds runs, if nobody but us can have made it and put something into it. (Some hosts
/// let everybody write to their bpffs.)
fn ours_on(bpffs: &Path) -> io::Result<OwnedFd> {
    let top = open_dir(bpffs, OFlags::empty())?;
    let open_to_all = Mode::from_raw_mode(fstat(&top)?.st_mode);
    if open_to_all.contains(Mode::WOTH) && !open_to_all.contains(Mode::SVTX) {
        return Err(refused("everybody may rename what is on it"));
    }
    let ours = openat(&top, OURS, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    let found = fstat(&ours)?;
    if found.st_uid != geteuid().as_raw() {
        return Err(refused("somebody else made the directory in our place"));
    }
    if Mode::from_raw_mode(found.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
        return Err(refused("others may write to our directory"));
    }
    Ok(ours)
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

fn open_dir(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(open(path, DIRECTORY | flags, Mode::empty())?)
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

/// Every directory that [`create`] may have made for this run and that is there.
pub(crate) fn existing(id: &str, run_dir: &Path) -> Vec<PathBuf> {
    let tops = [PathBuf::from(USUAL), run_dir.join(PRIVATE)];
    tops.iter()
        .filter(|top| is_bpffs(top) && ours_on(top).is_ok())
        .map(|top| top.join(OURS).join(id))
        .filter(|dir| dir.is_dir())
        .collect()
}

/// The directories of pins of all runs on the usual bpffs. Runs are named by UUIDs; nothing else there is ours.
pub(crate) fn all() -> Vec<PathBuf> {
    let top = Path::new(USUAL);
    if !is_bpffs(top) || ours_on(top).is_err() {
        return Vec::new();
    }
    let entries = fs::read_dir(top.join(OURS)).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter(|entry| {
            let is_run = |name: &str| uuid::Uuid::parse_str(name).is_ok();
            entry.file_name().to_str().is_some_and(is_run)
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
        })
        .map(|entry| entry.path())
        .collect();
    found.sort_unstable();
    found
}

/// Remove the directory for them, if none is in it.
pub(crate) fn tidy_usual() {
    let _ = fs::remove_dir(Path::new(USUAL).join(OURS));
}

/// After a run's directory of pins is gone: remove what only served to hold it. Only while holding the
/// common lock.
pub(crate) fn tidy(run_dir: &Path) {
    // Fails where another run is still in it, which is as it should be.
    tidy_usual();
    let own = run_dir.join(PRIVATE);
    if is_bpffs(&own) {
        let _ = fs::remove_dir(own.join(OURS));
        let _ = unmount(&own, UnmountFlags::empty());
    }
    let _ = fs::remove_dir(&own);
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(BPF_MAGIC))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_directory_is_made_and_tidied() {
        crate::need_root();
        let state = tempfile::tempdir().unwrap();
        let id = uuid::Uuid::now_v7().to_string();
        let dir = create(&id, state.path()).unwrap();
        assert!(is_bpffs(&dir));
        assert_eq!(existing(&id, state.path()), std::slice::from_ref(&dir));
        fs::remove_dir(&dir).unwrap();
        tidy(state.path());
        assert!(!state.path().join("bpf").exists());
    }

    #[test]
    fn what_others_put_in_our_place_is_not_used() {
        crate::need_root();
        let state = tempfile::tempdir().unwrap();
        let own = create_private("first", state.path()).unwrap();
        let bpffs = state.path().join(PRIVATE);
        let ours = bpffs.join(OURS);
        assert!(own.starts_with(&ours) && ours_on(&bpffs).is_ok());
        fs::remove_dir(&own).unwrap();

        // Anybody may make these on a bpffs that everybody may write to.
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&bpffs, 0o1777);
        std::os::unix::fs::chown(&ours, Some(65534), None).unwrap();
        assert!(create_on(&bpffs, "x").is_err());
        fs::remove_dir(&ours).unwrap();
        symlink(state.path(), &ours).unwrap();
        assert!(create_on(&bpffs, "x").is_err());
        assert!(existing("bpf", state.path()).is_empty());
        fs::remove_file(&ours).unwrap();
        assert!(create_on(&bpffs, "x").is_ok());
        mode(&ours, 0o777);
        assert!(create_on(&bpffs, "y").is_err());
        mode(&ours, 0o700);
        mode(&bpffs, 0o777);
        assert!(create_on(&bpffs, "y").is_err());

        fs::remove_dir_all(&ours).unwrap();
        tidy(state.path());
        assert!(!bpffs.exists());
    }
}
