//! The deployment's own scripts: which of its destinations their texts name.

use std::io::Read as _;

use blackstart_core::graph::{named_in, own_scripts};
use blackstart_core::report::{Parts, Script};

use crate::files;

/// The most of a script that is read; longer ones are not looked at.
const MOST_BYTES: u64 = 1 << 20;
/// The most scripts that are looked at.
const MOST_SCRIPTS: usize = 256;

/// Reads the scripts below the command's own directory that the run executed, as they are now that it has
/// ended. Of their texts nothing is kept but the names of destinations that the run reached for anyway.
pub(crate) fn read(report: &dyn Parts) -> Vec<Script> {
    let directory = std::env::current_dir().ok();
    let directory = directory.as_deref().and_then(|path| path.to_str());
    own_scripts(report, directory)
        .into_iter()
        .take(MOST_SCRIPTS)
        .filter_map(|own| {
            let text = text(&own.path)?;
            Some(Script {
                names: named_in(report, &text),
                path: own.path,
                subjects: own.subjects,
            })
        })
        .collect()
}

/// None of what is no file, too long, or gone.
fn text(path: &str) -> Option<String> {
    let file = files::open(path, MOST_BYTES)?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
