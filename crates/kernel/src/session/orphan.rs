//! What a supervisor that is gone has left.

use std::fs;
use std::path::Path;

use blackstart_core::record::Row;

use super::{Feature, LAYOUT, layout_dir};
use crate::read::Record;
use crate::{Error, ErrorKind, tracer};

/// Count what the kernel leaves out of what is pinned in the directory of a layout.
pub(super) fn watch_pinned(record: &mut Record, layout: &Path) {
    let traced = Feature::ALL.into_iter().filter(|it| it.is_tracing());
    let names = traced.flat_map(|feature| feature.programs().iter().copied());
    record.skipped.watch_pinned(layout, names);
    tracer::watch_pinned(&mut record.skipped, layout);
}

/// A run whose supervisor is gone: its pinned maps, read by another process.
pub struct Orphan {
    record: Record,
}

impl Orphan {
    /// Open the pins below `dir`.
    ///
    /// # Errors
    /// [`ErrorKind::Layout`] if they were left by a release with other maps.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let layout = layout_dir(dir);
        if !layout.is_dir() {
            return Err(Error::new(
                ErrorKind::Layout,
                format!(
                    "read {}: its maps are not of layout {LAYOUT}",
                    dir.display()
                ),
            ));
        }
        let mut record = Record::pinned(&layout)?;
        watch_pinned(&mut record, &layout);
        Ok(Self { record })
    }

    /// Hand the record to `each`, row by row.
    pub fn read(&self, each: &mut dyn FnMut(Row)) -> Result<(), Error> {
        self.record.read(each)
    }

    /// Remove every pin below `dir`, whatever its layout, and `dir` itself: programs are detached with their last
    /// link.
    pub fn remove(dir: &Path) -> Result<(), Error> {
        // Programs that a tracer calls are not held by a link.
        for layout in fs::read_dir(dir).into_iter().flatten().flatten() {
            tracer::forget_pinned(&layout.path());
        }
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::caused(
                ErrorKind::Io,
                format!("remove the pins {}", dir.display()),
                error,
            )),
            _ => Ok(()),
        }
    }
}
