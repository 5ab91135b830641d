//! Whose a state directory is: what lies there tells root's commands what to do.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::state::{NOTIFY, RUNS};

/// Nobody but root may change what root's commands find below `path`: by that a run could be reloaded by another policy, its
/// record be changed, and its guard be taken off. The error says whose it is and what to do. Who is not root acts for
/// themselves, wherever they like.
pub fn is_trusted(path: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    // What leads there by name, and by what it comes to where a part of that is a link.
    let real = path.canonicalize().unwrap_or_default();
    let above = path.ancestors().chain(real.ancestors());
    let above = above.filter(|dir| *dir != path && *dir != real);
    let kept: [PathBuf; 3] = [path.to_owned(), path.join(RUNS), path.join(NOTIFY)];
    let all = above
        .map(|dir| (dir, true))
        .chain(kept.iter().map(|dir| (dir.as_path(), false)));
    for (dir, is_above) in all {
        // What is not there root will make.
        let Ok(found) = fs::metadata(dir) else {
            continue;
        };
        if let Some(why) = distrusted(found.uid(), found.gid(), found.mode(), is_above) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "{0} {why}, and root would act upon what lies there; make it root's alone (`chown root:root {0}`, \
                     `chmod go-w {0}`), or name another directory in BLACKSTART_STATE",
                    dir.display()
                ),
            ));
        }
    }
    Ok(())
}

/// Whose a directory is besides root's. In one with the sticky bit others cannot replace what root has there, but make what is
/// not there yet.
fn distrusted(owner: u32, group: u32, mode: u32, is_above: bool) -> Option<String> {
    let sticky = is_above && mode & 0o1000 != 0;
    if owner != 0 {
        Some(format!("belongs to user {owner}"))
    } else if mode & 0o002 != 0 && !sticky {
        Some("may be written to by everybody".to_owned())
    } else if mode & 0o020 != 0 && group != 0 && !sticky {
        Some(format!("may be written to by group {group}"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_roots_alone_or_told_as_whose_it_is() {
        for (owner, group, mode, is_above, whose) in [
            (0, 0, 0o700, false, None),
            (0, 0, 0o711, false, None),
            (0, 0, 0o775, false, None),
            (0, 50, 0o755, false, None),
            (1000, 0, 0o700, false, Some("user 1000")),
            (1000, 0, 0o755, true, Some("user 1000")),
            (0, 50, 0o775, true, Some("group 50")),
            (0, 0, 0o777, true, Some("everybody")),
            (0, 0, 0o1777, true, None),
            (0, 0, 0o1777, false, Some("everybody")),
        ] {
            let told = distrusted(owner, group, mode, is_above);
            match whose {
                None => assert_eq!(told, None, "{owner} {group} {mode:o}"),
                Some(whose) => assert!(told.is_some_and(|it| it.ends_with(whose))),
            }
        }
    }
}
