//! Calls of a program that the kernel has left out.
//!
//! A program that traces runs once at a time on each processor: what it is to be called for while it is in the middle of something
//! else there, it is not called for (`bpf_prog_get_recursion_context`, include/linux/filter.h), and the kernel counts that. So it is
//! with whatever is preempted there, which needs a kernel that can be preempted in functions, and from 7.0 on in tracepoints, too.
//! What is attached to a cgroup runs for everybody.

use std::fs;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use libbpf_rs::{Link, Program};

use crate::{Error, ErrorKind};

#[derive(Debug, Default)]
pub(crate) struct Skipped {
    /// Programs that are attached, and what was left out of each before it was.
    programs: Vec<(OwnedFd, u64)>,
    /// Of those that were.
    past: u64,
}

impl Skipped {
    /// Count for this program from now on.
    pub(crate) fn watch(&mut self, program: BorrowedFd<'_>) -> Result<(), Error> {
        let held = program
            .try_clone_to_owned()
            .map_err(|error| Error::caused(ErrorKind::Io, "hold a program", error))?;
        let before = left_out(&held).unwrap_or(0);
        self.programs.push((held, before));
        Ok(())
    }

    /// Count for the programs whose links are pinned in this directory by any of the names, from when they were loaded on.
    pub(crate) fn watch_pinned<'a>(
        &mut self,
        dir: &Path,
        names: impl IntoIterator<Item = &'a str>,
    ) {
        let pins = names
            .into_iter()
            .map(|name| dir.join(format!("link_{name}")));
        // Most runs have only some of them, and libbpf complains of each that is not there.
        for pin in pins.filter(|pin| pin.exists()) {
            let link = Link::open(&pin);
            let program = link
                .and_then(|link| link.info())
                .and_then(|about| Program::fd_from_id(about.prog_id));
            match program {
                Ok(program) => self.programs.push((program, 0)),
                Err(error) => tracing::debug!(%error, "the program of {}", pin.display()),
            }
        }
    }

    /// The programs are taken off.
    pub(crate) fn end(&mut self) {
        self.past = self.count();
        self.programs.clear();
    }

    /// How many.
    pub(crate) fn count(&self) -> u64 {
        let each = self.programs.iter();
        each.fold(self.past, |sum, (program, before)| {
            // What nobody tells, before 5.12 or without /proc, is 0.
            let so_far = left_out(program).unwrap_or(0);
            sum.saturating_add(so_far.saturating_sub(*before))
        })
    }

    /// What the kernel says of each.
    #[cfg(test)]
    pub(crate) fn told(&self) -> Vec<Option<u64>> {
        let each = self.programs.iter();
        each.map(|(program, _)| left_out(program)).collect()
    }
}

/// In the life of the program.
fn left_out(program: &OwnedFd) -> Option<u64> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()));
    misses(&about.ok()?)
}

/// As `bpf_prog_show_fdinfo` in kernel/bpf/syscall.c writes it.
fn misses(about: &str) -> Option<u64> {
    let mut values = about.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = values.find(|(name, _)| *name == "recursion_misses")?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_word_is_read() {
        let about = "pos:\t0\nflags:\t02\nprog_type:\t26\nrun_cnt:\t7\nrecursion_misses:\t3\nverified_insns:\t90\n";
        assert_eq!(misses(about), Some(3));
        assert_eq!(misses("pos:\t0\n"), None);
    }
}
