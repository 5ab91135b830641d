//! What systemd says of a unit that is starting. By `systemctl`, whose answer is waited for in the loop like all else.

use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use blackstart_core::report::FollowedUntil;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same where something waits for it.
const LAST_PATIENCE: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(2);

/// A question that is not answered yet.
#[derive(Debug)]
pub(super) struct Asking {
    child: Child,
    since: Instant,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// There is none yet.
    Waiting,
    /// There will be none.
    None,
    /// The unit has not come to where it is going.
    Starting,
    /// It has.
    Over(FollowedUntil),
}

impl Asking {
    /// Ask.
    pub(super) fn about(unit: &str) -> Option<Self> {
        let child = Command::new("systemctl")
            .args(["show", "--property=ActiveState", "--"])
            .arg(unit)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => Some(Self {
                child,
                since: Instant::now(),
            }),
            Err(error) => {
                tracing::debug!(%error, "systemctl");
                None
            }
        }
    }

    /// Ask, and wait for the answer, though not for long: the end of a run waits for it.
    pub(super) fn at_once(unit: &str) -> Answer {
        let Some(mut asking) = Self::about(unit) else {
            return Answer::None;
        };
        loop {
            match asking.answer() {
                Answer::Waiting if asking.since.elapsed() < LAST_PATIENCE => sleep(STEP),
                Answer::Waiting => return Answer::None,
                answer => return answer,
            }
        }
    }

    /// Readable when there is an answer.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.child.stdout.as_ref().map(|out| out.as_fd())
    }

    /// What came of it by now.
    pub(super) fn answer(&mut self) -> Answer {
        match self.child.try_wait() {
            Ok(None) if self.since.elapsed() < PATIENCE => return Answer::Waiting,
            Ok(Some(status)) if status.success() => {}
            _ => return Answer::None,
        }
        let mut text = String::new();
        // One short line, which the pipe held.
        if let Some(out) = &mut self.child.stdout {
            let _ = out.read_to_string(&mut text);
        }
        read(&text)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(text: &str) -> Answer {
    match text.trim_end().strip_prefix("ActiveState=") {
        Some("active" | "reloading" | "refreshing") => Answer::Over(FollowedUntil::Active),
        Some("inactive") => Answer::Over(FollowedUntil::Ended),
        Some("failed") => Answer::Over(FollowedUntil::Failed),
        Some(_) => Answer::Starting,
        None => Answer::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_says_is_read() {
        assert_eq!(
            read("ActiveState=active\n"),
            Answer::Over(FollowedUntil::Active)
        );
        assert_eq!(
            read("ActiveState=failed\n"),
            Answer::Over(FollowedUntil::Failed)
        );
        assert_eq!(
            read("ActiveState=inactive\n"),
            Answer::Over(FollowedUntil::Ended)
        );
        assert_eq!(read("ActiveState=activating\n"), Answer::Starting);
        assert_eq!(read("ActiveState=deactivating\n"), Answer::Starting);
        assert_eq!(read(""), Answer::None);
    }
}
