//! Names that connections give: the program that reads them is attached to a table of sockets, and another one, in the
//! cgroup, puts sockets there.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd};
use std::path::Path;

use libbpf_rs::skel::Skel as _;
use libbpf_rs::{Link, MapCore as _, MapHandle, ProgramMut};

use super::{Session, layout_dir};
use crate::{Error, ErrorKind, abi};

/// Attached to the table.
pub(super) const READER: &str = "bs_message";
/// Attached to the cgroup.
pub(super) const BRINGER: &str = "bs_established";

/// With the last descriptor or pin of the table the kernel takes the reader off, whatever else refers to the table: it has
/// to be pinned.
pub(super) fn pin_table(table: &MapHandle, layout: &Path) -> Result<(), Error> {
    let failed = |error| {
        let doing = "pin the table of connections to be read";
        Error::caused(ErrorKind::Io, doing, error)
    };
    let mut held = MapHandle::try_from(table).map_err(failed)?;
    held.pin(layout.join("bs_claimants")).map_err(failed)
}

/// Have what sockets in the table send read by this program from now on.
pub(super) fn attach_reader(program: &ProgramMut<'_>, table: RawFd) -> Result<(), Error> {
    program.attach_sockmap(table).map_err(|error| {
        Error::caused(
            ErrorKind::Unsupported,
            format!("attach the program {READER}"),
            error,
        )
    })
}

/// The same with the one of later programs.
pub(super) fn attach_whole_reader(
    whole: &mut abi::BlackstartSkel<'_>,
    table: RawFd,
) -> Result<(), Error> {
    let mut programs = whole.object_mut().progs_mut();
    let reader = programs.find(|program| program.name() == READER);
    attach_reader(&reader.ok_or_else(missing)?, table)
}

/// Begin with them in a run that has done without; the link is pinned where the others are.
pub(super) fn begin(
    whole: &mut abi::BlackstartSkel<'_>,
    table: RawFd,
    cgroup: BorrowedFd<'_>,
    pins: Option<&Path>,
) -> Result<Link, Error> {
    attach_whole_reader(whole, table)?;
    let mut programs = whole.object_mut().progs_mut();
    let bringer = programs
        .find(|program| program.name() == BRINGER && program.autoload())
        .ok_or_else(missing)?;
    let failed = |what: &str, error| {
        Error::caused(
            ErrorKind::Unsupported,
            format!("{what} the program {BRINGER}"),
            error,
        )
    };
    let mut link = bringer
        .attach_cgroup(cgroup.as_raw_fd())
        .map_err(|error| failed("attach", error))?;
    if let Some(pins) = pins {
        link.pin(layout_dir(pins).join(format!("link_{BRINGER}")))
            .map_err(|error| failed("pin the link of", error))?;
    }
    Ok(link)
}

fn missing() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "read the names that connections give: this kernel does not take the programs; write `inspect: []`",
    )
}

impl Session {
    /// The table's descriptor, open as long as the session.
    pub(super) fn claimants(&self) -> RawFd {
        self.maps.bs_claimants.as_fd().as_raw_fd()
    }

    /// Once nobody puts sockets there any more: those that are there send as any other again.
    pub(super) fn let_claimants_go(&self) {
        let table = &self.maps.bs_claimants;
        for key in table.keys().collect::<Vec<_>>() {
            // Closed meanwhile, if not there.
            let _ = table.delete(&key);
        }
    }
}
