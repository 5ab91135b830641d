//! Where cgroups of runs lie, and who is in one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::hierarchy::{Hierarchy, Tree};

/// Name of the directory that holds runs, and mark of what is ours.
pub(super) const OURS: &str = "blackstart";

/// Where a run's cgroup goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Below the caller's own, which lies in a guarded run: the outer guard must still hold.
    Nested(PathBuf),
    /// Below a transient scope that systemd is asked for.
    Scope,
    /// At the top of the hierarchy.
    Top,
}

/// Decide by the caller's cgroup (below the mount) and whether systemd is PID 1. Where systemd keeps this
/// tree every process is in some unit's cgroup; at the top of it means that it keeps only the v1 ones.
pub(super) fn place(own: &Path, systemd: bool) -> Place {
    if in_run(own) {
        Place::Nested(own.join(OURS))
    } else if systemd && own != Path::new("") {
        Place::Scope
    } else {
        Place::Top
    }
}

/// Is this process in a run?
pub(crate) fn is_in_run(pid: i32) -> io::Result<bool> {
    let place = Hierarchy::find(Tree::Second)?.of(&pid.to_string())?;
    Ok(in_run(&place))
}

/// Hand every cgroup of a run at the top of the hierarchy to `each`. Those that systemd made a scope for go with that, those
/// within a run with it.
pub(crate) fn each_run(each: &mut dyn FnMut(&Path)) -> io::Result<()> {
    let hierarchy = Hierarchy::find(Tree::Second)?;
    let entries = match fs::read_dir(hierarchy.at(Path::new(OURS))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let is_run = |name: &str| uuid::Uuid::parse_str(name).is_ok();
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_run) {
            each(&entry.path());
        }
    }
    Ok(())
}

/// Does a path lie in the cgroup of a run? Runs are directories named by a UUID, in one named by us.
pub(crate) fn in_run(path: &Path) -> bool {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.windows(2).any(|pair| {
        let ours =
            pair[0] == OURS || (pair[0].starts_with("blackstart-") && pair[0].ends_with(".scope"));
        ours && uuid::Uuid::parse_str(&pair[1]).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "01980000-0000-7000-8000-000000000001";

    #[test]
    fn a_run_inside_a_run_nests() {
        let outer = PathBuf::from(format!("blackstart/{RUN}/job"));
        assert_eq!(place(&outer, true), Place::Nested(outer.join("blackstart")));
        let scoped = PathBuf::from(format!("system.slice/blackstart-{RUN}.scope/{RUN}"));
        assert!(matches!(place(&scoped, true), Place::Nested(_)));
        assert_eq!(
            place(Path::new("system.slice/ssh.service"), true),
            Place::Scope
        );
        assert_eq!(place(Path::new("blackstart"), false), Place::Top);
        assert_eq!(place(Path::new(""), true), Place::Top);
        // A service of that name, with a cgroup of its own below, is not a run.
        assert_eq!(place(Path::new("blackstart/agent"), false), Place::Top);
    }
}
