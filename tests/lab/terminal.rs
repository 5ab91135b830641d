//! A command on a terminal of its own, typed at and read from as a person would.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

const DEADLINE: Duration = Duration::from_secs(30);

/// A session leader on a pseudo-terminal.
pub struct Terminal {
    child: Child,
    keys: File,
    screen: Arc<(Mutex<String>, Condvar)>,
    /// Up to where [`Terminal::expect`] has read.
    read: usize,
}

impl Terminal {
    /// Start `command` as the leader of a new session that controls a new terminal.
    pub fn start(command: &Command) -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("open a pseudo-terminal");
        grantpt(&keys).expect("grant the pseudo-terminal");
        unlockpt(&keys).expect("unlock the pseudo-terminal");
        let name = ptsname(&keys, Vec::new()).expect("name the pseudo-terminal");
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .open(std::ffi::OsStr::from_bytes(name.as_bytes()))
                .map(Stdio::from)
                .expect("open the terminal's other end")
        };
        // setsid takes its stdin as the controlling terminal, which the standard library cannot without `unsafe`.
        let mut program = Command::new("setsid");
        program
            .args(["--ctty", "--wait", "--"])
            .arg(command.get_program())
            .args(command.get_args());
        program.env_clear().envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        let child = program
            .stdin(open())
            .stdout(open())
            .stderr(open())
            .spawn()
            .expect("start setsid (package util-linux)");
        let screen = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let mut reader = File::from(keys.try_clone().expect("copy the pseudo-terminal"));
        let copy = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The other side's last close ends it with EIO.
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                let Ok(mut screen) = copy.0.lock() else { break };
                screen.push_str(&String::from_utf8_lossy(&buffer[..n]));
                copy.1.notify_all();
            }
        });
        Self {
            child,
            keys: File::from(keys),
            screen,
            read: 0,
        }
    }

    /// Type these characters (`\x03` is Ctrl-C, `\x1a` is Ctrl-Z).
    pub fn type_in(&mut self, keys: &str) {
        self.keys
            .write_all(keys.as_bytes())
            .expect("type at the terminal");
    }

    /// Press a key a moment after what is on the screen, as a person does. (A key that comes while a shell
    /// is still starting a process is a race of that shell, with or without a guard.)
    pub fn press(&mut self, key: &str) {
        std::thread::sleep(Duration::from_millis(300));
        self.type_in(key);
    }

    /// Wait until the screen shows `text` after what was expected before.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let end = Instant::now() + DEADLINE;
        let mut screen = self.screen.0.lock().expect("no panic while held");
        loop {
            if let Some(at) = screen[self.read..].find(text) {
                self.read += at + text.len();
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "the terminal never showed {text:?} after {:?}",
                &screen[..]
            );
            screen = self
                .screen
                .1
                .wait_timeout(screen, left)
                .expect("no panic while held")
                .0;
        }
    }

    /// Everything that was shown so far.
    pub fn shown(&self) -> String {
        self.screen.0.lock().expect("no panic while held").clone()
    }

    /// Wait for the session leader's end.
    #[track_caller]
    pub fn wait(mut self) -> i32 {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .expect("look after the terminal's command")
            {
                return status.code().unwrap_or(-1);
            }
            assert!(
                Instant::now() < end,
                "the terminal's command did not end; it showed {:?}",
                self.shown()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
