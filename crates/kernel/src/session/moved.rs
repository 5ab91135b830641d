//! Pins of programs that were pinned before it was known which cgroup they are to judge.

use std::fs;
use std::io;

use super::{Session, layout_dir};
use crate::{Error, ErrorKind};

impl Session {
    /// Do its links outlive this process?
    pub fn is_pinned(&self) -> bool {
        self.pins.is_some()
    }

    /// Pin the links that were made since [`Session::pin`], in the place of those of the cgroup that was left: to be called
    /// after [`Session::guard`]. Nothing happens where nothing was pinned.
    ///
    /// Until then they end with this process: whoever is killed in between leaves nobody guarded, and no row behind that
    /// says otherwise.
    pub fn pin_moved(&mut self) -> Result<(), Error> {
        let Some(dir) = &self.pins else { return Ok(()) };
        let layout = layout_dir(dir);
        for (name, link) in &mut self.links {
            if link.pin_path().is_some() {
                continue;
            }
            let at = layout.join(format!("link_{name}"));
            let failed = |error: &dyn std::fmt::Display| {
                let doing = format!("pin the link of {name}: {error}");
                Error::new(ErrorKind::Io, doing)
            };
            match fs::remove_file(&at) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(&error));
                }
                _ => {}
            }
            link.pin(&at).map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}
