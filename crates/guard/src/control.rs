//! Changing a run that is on: another command of the same user asks its supervisor, over a socket in the run's
//! own directory, which only root can reach.
//!
//! A request is one JSON document, ended by closing that half of the connection; so is the reply. Nothing
//! else is understood, and nobody is waited for longer than [`PATIENCE`].

use std::borrow::Cow;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use blackstart_core::drill::Drill;
use blackstart_core::name::Name;
use blackstart_core::policy::Policy;
use blackstart_core::report::{Mode, PolicySource, Reload};
use blackstart_core::tables::{Facts, Tables, compile};
use blackstart_kernel::Session;
use serde::{Deserialize, Serialize};

use crate::GivenPolicy;
use crate::orphan::described;
use crate::state::{RunDir, RunFile, StateDir};
use crate::story::wall_ns;

const SOCKET: &str = "control";
/// How long the supervisor's loop may be held up by who asks.
const PATIENCE: Duration = Duration::from_millis(500);
/// A supervisor answers between two turns of its loop, and a large policy takes a moment to work out.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// Largest request that is read.
const MOST: u64 = 256 << 20;

/// Where a run's policy was read from, so that it can be read again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The policy file, absolute.
    pub policy: Option<PathBuf>,
    /// The catalog, absolute.
    pub catalog: Option<PathBuf>,
    /// The mode that was typed.
    pub mode: Option<Mode>,
    /// The service that was typed.
    pub service: Option<String>,
    /// The outage that is played for the run: it stays, whatever policy takes over.
    #[serde(default)]
    pub drill: Option<Drill>,
    /// The trees that are deployed, as far as that is known: no policy ought to lie there.
    #[serde(default)]
    pub trees: Vec<PathBuf>,
    /// Guardrails besides those of the host, absolute: the agent's own.
    #[serde(default)]
    pub guardrails: Vec<PathBuf>,
    /// All guardrails are final: it is somebody's who has no root.
    #[serde(default)]
    pub all_final: bool,
}

/// A run that is on and has its supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// What it deploys.
    pub service: Option<String>,
    /// Where its policy was read from.
    pub origin: Origin,
    dir: PathBuf,
}

/// The runs that are on below `state_dir` and are meant by `which`: an id, the beginning or the end of one, or a
/// service. Runs without a supervisor are not among them: there is nobody to ask.
pub fn running(state_dir: &Path, which: &str) -> io::Result<Vec<Running>> {
    let (mut dirs, mut unread) = (Vec::new(), Ok(()));
    for state in StateDir::places(state_dir) {
        match state.unfinished() {
            Ok(runs) => dirs.extend(runs),
            Err(error) => unread = Err(error),
        }
    }
    let mut found = Vec::new();
    for dir in dirs {
        let Ok(run) = RunDir::peek(&dir) else {
            continue;
        };
        let meant = run.id.starts_with(which)
            || run.id.ends_with(which)
            || run.service.as_deref() == Some(which);
        if meant && dir.join(SOCKET).exists() {
            found.push(Running {
                id: run.id,
                service: run.service,
                origin: run.origin,
                dir,
            });
        }
    }
    // A disk that cannot be read hides none of the runs that are kept elsewhere for that reason.
    if found.is_empty() {
        unread?;
    }
    Ok(found)
}

impl Running {
    /// Judge this run by another policy from its next attempt on. The error says why not.
    pub fn reload(&self, given: &GivenPolicy) -> Result<(), String> {
        let gone = |error: io::Error| format!("its supervisor cannot be asked: {error}");
        let nobody = |error: io::Error| {
            match error.kind() {
            // The socket outlives who listened.
            io::ErrorKind::ConnectionRefused => "its supervisor has ended, and only that could change it; the run stays guarded by the policy that it has until its last process ends".to_owned(),
            _ => gone(error),
        }
        };
        let mut stream = UnixStream::connect(self.dir.join(SOCKET)).map_err(nobody)?;
        stream
            .set_read_timeout(Some(ANSWER_PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_PATIENCE)))
            .map_err(gone)?;
        let request = Request {
            policy: Cow::Borrowed(&given.policy),
            source: given.source.clone(),
        };
        let text = serde_json::to_vec(&request).map_err(|error| error.to_string())?;
        stream
            .write_all(&text)
            .and_then(|()| stream.shutdown(Shutdown::Write))
            .map_err(gone)?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).map_err(gone)?;
        let reply: Reply = serde_json::from_slice(&text)
            .map_err(|error| format!("its supervisor's answer cannot be read: {error}"))?;
        reply.refused.map_or(Ok(()), Err)
    }
}

#[derive(Serialize, Deserialize)]
struct Request<'a> {
    policy: Cow<'a, Policy>,
    source: PolicySource,
}

#[derive(Serialize, Deserialize)]
struct Reply {
    /// Why not; none if it was done.
    refused: Option<String>,
}

/// The supervisor's side.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
}

impl Control {
    /// Listen in a run's directory.
    pub(crate) fn listen(dir: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(dir.join(SOCKET))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// Readable when somebody asks.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Hear whoever asks now, and do it.
    pub(crate) fn serve(&self, mut change: impl FnMut(Policy, PolicySource) -> Result<(), String>) {
        while let Ok((stream, _)) = self.listener.accept() {
            if let Err(error) = answer(&stream, &mut change) {
                tracing::debug!(%error, "a request that could not be heard");
            }
        }
    }
}

fn answer(
    mut stream: &UnixStream,
    change: &mut impl FnMut(Policy, PolicySource) -> Result<(), String>,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut text = Vec::new();
    stream.take(MOST).read_to_end(&mut text)?;
    let refused = match serde_json::from_slice::<Request<'_>>(&text) {
        Ok(request) => change(request.policy.into_owned(), request.source).err(),
        Err(error) => Some(format!("the request cannot be read: {error}")),
    };
    stream.write_all(&serde_json::to_vec(&Reply { refused })?)
}

/// The socket goes with the run.
pub(crate) fn remove(dir: &Path) {
    // Nothing may be there to remove.
    let _ = std::fs::remove_file(dir.join(SOCKET));
}

/// What a run is judged by, and may be changed while it is on.
pub(crate) struct Judged<'a> {
    /// All policies so far, as one: the rules of later ones come after those of earlier ones, and the rest is
    /// the last one's.
    pub(crate) policy: Option<Cow<'a, Policy>>,
    /// How many rules are those of policies before the last one.
    pub(crate) first_rule: usize,
    /// The same as tables, where user space judges too (lookups over TCP).
    pub(crate) tables: Option<Tables>,
    /// The run's search list, which compiling needs.
    pub(crate) search: Vec<Name>,
    /// Everything is there that enforcing needs.
    pub(crate) may_enforce: bool,
    /// Nothing is refused, whatever a policy says.
    pub(crate) broken_glass: bool,
    /// No end of a run is there to hold leases by.
    pub(crate) ends_leases: bool,
    /// Is something refused now?
    pub(crate) enforcing: bool,
}

impl Judged<'_> {
    /// Let another policy take over.
    pub(crate) fn reload(
        &mut self,
        session: Option<&mut Session>,
        dir: Option<&RunDir>,
        file: &mut RunFile,
        mut policy: Policy,
        source: PolicySource,
    ) -> Result<(), String> {
        let Some(session) = session else {
            return Err("the run is unguarded: nothing judges it".to_owned());
        };
        let enforces = policy.enforces();
        if enforces && !self.may_enforce {
            return Err(
                "the new policy enforces, and this run goes without something that enforcing needs (its report lists the gap); end it and begin a new one"
                    .to_owned(),
            );
        }
        let facts = Facts {
            search: self.search.clone(),
        };
        let mut tables = compile(&policy, &facts).map_err(|error| error.to_string())?;
        if self.ends_leases {
            tables.end_leases();
        }
        let rules = u32::try_from(policy.rules.len()).unwrap_or(u32::MAX);
        let mode = if enforces && !self.broken_glass {
            Mode::Enforce
        } else {
            Mode::Observe
        };
        session
            .reload(&tables, rules, mode)
            .map_err(|error| described(&error))?;
        if let Some(judging) = &mut self.tables {
            *judging = tables;
        }
        self.enforcing = mode == Mode::Enforce;

        let known = self
            .policy
            .get_or_insert_with(|| Cow::Owned(Policy::default()));
        let known = known.to_mut();
        let mut all = std::mem::take(&mut known.rules);
        self.first_rule = all.len();
        file.first_rule = self.first_rule;
        all.append(&mut policy.rules);
        // Limits are the run's from its start to its end, and so is what it follows.
        let limits = known.limits;
        let follow = std::mem::take(&mut known.follow);
        *known = policy;
        known.rules = all;
        known.limits = limits;
        known.follow = follow;
        file.policy = Some(source.clone());
        file.mode = known.mode;
        file.reloads.push(Reload {
            at_ns: wall_ns(SystemTime::now()),
            policy: source,
        });
        if let Some(dir) = dir {
            let kept = dir.write_policy(known).and_then(|()| dir.write_run(file));
            if let Err(error) = kept {
                tracing::warn!(%error, "the new policy cannot be kept");
            }
        }
        Ok(())
    }
}
