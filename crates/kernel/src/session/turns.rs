//! One cgroup after the other, by programs that are loaded once: a unit of systemd that starts is not waited for by a
//! loader.

use std::os::fd::BorrowedFd;

use blackstart_core::record::SubjectId;
use libbpf_rs::{MapCore as _, MapFlags};

use super::Session;
use crate::{Error, ErrorKind};

impl Session {
    /// Follow the processes of `cgroup` from here on; [`Self::found`] and [`Self::guard`] are to come. Nothing may be attached.
    pub fn turn_to(&mut self, cgroup: BorrowedFd<'_>) -> Result<(), Error> {
        self.forget_processes()?;
        self.live.forget_level();
        self.attach_where(cgroup, |feature| feature.is_tracing())
    }

    /// A number for a subject that no process is. Those of processes that are met before it are lower, those of later ones
    /// higher.
    pub fn number_subject(&self) -> SubjectId {
        self.live.number_subject()
    }

    /// Who lived on in the last cgroup is not looked at any more: its number may come to be another process's.
    fn forget_processes(&self) -> Result<(), Error> {
        let table = &self.maps.bs_processes;
        for key in table.keys().collect::<Vec<_>>() {
            // Gone meanwhile, if not there.
            let _ = table.delete(&key);
        }
        let left = table
            .keys()
            .next()
            .map(|key| table.lookup(&key, MapFlags::ANY));
        if matches!(left, Some(Ok(Some(_)))) {
            return Err(Error::new(ErrorKind::Io, "empty the table of processes"));
        }
        self.live.forget_acting();
        Ok(())
    }
}
