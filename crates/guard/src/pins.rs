//! Where a run's programs and maps are pinned, so that they outlive the supervisor.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::statfs;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// What statfs says of a bpffs.
const BPF_MAGIC: u64 = 0xcafe_4a11;

const USUAL: &str = "/sys/fs/bpf";
const OURS: &str = "blackstart";
const PRIVATE: &str = "bpf";

/// Make a run's directory on a bpffs: the usual one, or, where the host shows none that can be written
/// to (`ip netns exec` hides it), one mounted in the run's own directory. Only while holding the common
/// lock: another run's end may tidy.
pub(crate) fn create(id: &str, run_dir: &Path) -> io::Result<PathBuf> {
    let usual = Path::new(USUAL);
    if is_bpffs(usual)
        && let Ok(dir) = create_on(usual, id)
    {
        return Ok(dir);
    }
    // Not shared between runs: where another mount namespace has a mount on a directory, removing that
    // directory here would take the mount away there.
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
    let dir = bpffs.join(OURS).join(id);
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Every directory that [`create`] may have made for this run and that is there.
pub(crate) fn existing(id: &str, run_dir: &Path) -> Vec<PathBuf> {
    let tops = [PathBuf::from(USUAL), run_dir.join(PRIVATE)];
    tops.iter()
        .filter(|top| is_bpffs(top))
        .map(|top| top.join(OURS).join(id))
        .filter(|dir| dir.is_dir())
        .collect()
}

/// After a run's directory of pins is gone: remove what only served to hold it. Only while holding the
/// common lock.
pub(crate) fn tidy(run_dir: &Path) {
    // Fails where another run is still in it, which is as it should be.
    let _ = fs::remove_dir(Path::new(USUAL).join(OURS));
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

    #[test]
    fn a_directory_is_made_and_tidied() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let id = uuid::Uuid::now_v7().to_string();
        let dir = create(&id, state.path()).unwrap();
        assert!(is_bpffs(&dir));
        assert_eq!(existing(&id, state.path()), std::slice::from_ref(&dir));
        fs::remove_dir(&dir).unwrap();
        tidy(state.path());
        assert!(!state.path().join("bpf").exists());
    }
}
