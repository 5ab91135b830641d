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
    Over(Over),
}

/// How it came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Over {
    pub(super) until: FollowedUntil,
    /// It never said that it was ready: it is active as soon as its process is there.
    pub(super) at_once: bool,
}

impl From<FollowedUntil> for Over {
    fn from(until: FollowedUntil) -> Self {
        Self {
            until,
            at_once: false,
        }
    }
}

impl Asking {
    /// Ask.
    pub(super) fn about(unit: &str) -> Option<Self> {
        let child = Command::new("systemctl")
            .args(["show", "--property=ActiveState,Type", "--"])
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
    pub(super) fn now(unit: &str) -> Answer {
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
        // Two short lines, which the pipe held.
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
    let of = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    let until = match of("ActiveState") {
        Some("active" | "reloading" | "refreshing") => FollowedUntil::Active,
        Some("inactive") => FollowedUntil::Ended,
        Some("failed") => FollowedUntil::Failed,
        Some(_) => return Answer::Starting,
        None => return Answer::None,
    };
    let at_once = matches!(of("Type"), Some("simple" | "exec" | "idle"));
    Answer::Over(Over {
        until,
        at_once: at_once && until == FollowedUntil::Active,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_says_is_read() {
        let over = |until: FollowedUntil| Answer::Over(until.into());
        let at_once = Answer::Over(Over {
            until: FollowedUntil::Active,
            at_once: true,
        });
        for (text, answer) in [
            (
                "Type=notify\nActiveState=active\n",
                over(FollowedUntil::Active),
            ),
            ("Type=simple\nActiveState=active\n", at_once),
            (
                "Type=simple\nActiveState=failed\n",
                over(FollowedUntil::Failed),
            ),
            (
                "Type=oneshot\nActiveState=inactive\n",
                over(FollowedUntil::Ended),
            ),
            ("Type=simple\nActiveState=activating\n", Answer::Starting),
            ("Type=simple\nActiveState=deactivating\n", Answer::Starting),
            ("", Answer::None),
        ] {
            assert_eq!(read(text), answer, "{text}");
        }
    }
}
