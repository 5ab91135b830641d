//! The one place that prints. Standard output belongs to the command while a run lasts, so everything
//! that Blackstart says of its own goes to standard error; only results that were asked for go to
//! standard output.

use std::io::{self, IsTerminal as _, Write as _};

use crate::plain::Paint;

/// Both streams, and whether they like colour.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// For what [`Output::say`] is given.
    pub(crate) err: Paint,
    /// For what [`Output::result`] is given.
    pub(crate) out: Paint,
}

impl Output {
    /// Looks at the streams and at `NO_COLOR` and `TERM`.
    pub(crate) fn of_process() -> Self {
        let no_color =
            std::env::var_os("NO_COLOR").map(|value| value.to_string_lossy().into_owned());
        let term = std::env::var("TERM").ok();
        let decide = |is_terminal| Paint::decide(is_terminal, no_color.as_deref(), term.as_deref());
        Self {
            err: decide(io::stderr().is_terminal()),
            out: decide(io::stdout().is_terminal()),
        }
    }

    /// To standard error, in one write, so that it does not tear the command's own lines apart. If
    /// nobody listens any more, nobody can be told.
    pub(crate) fn say(self, text: &str) {
        let _nobody_listens = io::stderr().lock().write_all(text.as_bytes());
    }

    /// The same for a document that is too large to be made as one text, where it has no other place to go.
    pub(crate) fn instead(self, fill: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) {
        let mut err = io::BufWriter::new(io::stderr().lock());
        let _nobody_listens = fill(&mut err).and_then(|()| err.flush());
    }

    /// To standard output. A reader that has seen enough (`| head`) is no failure.
    pub(crate) fn result(
        self,
        fill: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        match fill(&mut out).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                // What is still in the buffer has nowhere to go, and would be tried again when it is dropped.
                let _unwritten = out.into_parts();
                Ok(())
            }
            other => other,
        }
    }

    /// `blackstart: error: …`, with the word in red.
    pub(crate) fn error(self, message: &str) {
        self.say(&format!(
            "blackstart: {} {message}\n",
            self.err.bad("error:")
        ));
    }

    /// `blackstart: warning: …`.
    pub(crate) fn warning(self, message: &str) {
        self.say(&format!(
            "blackstart: {} {message}\n",
            self.err.doubtful("warning:")
        ));
    }
}
