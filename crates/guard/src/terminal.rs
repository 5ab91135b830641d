//! Whose turn it is at the terminal.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use blackstart_kernel::spawn::process_group;
use rustix::process::Pid;
use rustix::termios::{tcgetpgrp, tcsetpgrp};

/// The controlling terminal, if there is one. SIGTTOU must be blocked, so that the terminal can be given
/// away from the background.
#[derive(Debug)]
pub(crate) struct Terminal {
    file: Option<File>,
    /// None where it has no number, as in a pid namespace: then neither has who holds the terminal with it.
    own: Option<Pid>,
    ours_at_start: bool,
}

impl Terminal {
    /// Look it up.
    pub(crate) fn open() -> Self {
        let flags = i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).unwrap_or(0);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open("/dev/tty")
            .ok();
        let mut terminal = Self {
            file,
            own: process_group(None),
            ours_at_start: false,
        };
        terminal.ours_at_start = terminal.present() && terminal.holder() == terminal.own;
        terminal
    }

    /// Is there one? Without, no shell does job control over us.
    pub(crate) fn present(&self) -> bool {
        self.file.is_some()
    }

    /// The process group in the foreground.
    pub(crate) fn holder(&self) -> Option<Pid> {
        tcgetpgrp(self.file.as_ref()?).ok()
    }

    /// Our own group.
    pub(crate) fn own_group(&self) -> Option<Pid> {
        self.own
    }

    /// Hand it over, if it is ours to give: a job in the background must not take it.
    pub(crate) fn give(&self, group: Pid) {
        if let Some(file) = self.file.as_ref().filter(|_| self.holder() == self.own) {
            let _ = tcsetpgrp(file, group);
        }
    }

    /// After the child: a group that it left in the foreground and that is gone must not keep it.
    pub(crate) fn take_back(&self) {
        let abandoned = self.holder().is_some_and(|group| {
            Some(group) != self.own && rustix::process::test_kill_process_group(group).is_err()
        });
        if let (Some(file), Some(own), true) =
            (&self.file, self.own, self.ours_at_start && abandoned)
        {
            let _ = tcsetpgrp(file, own);
        }
    }
}
