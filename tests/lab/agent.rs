//! An agent on a world's host, and callers without root.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::child::Running;
use crate::guard::{self, Guard};
use crate::node::Node;
use crate::world::World;

/// The group that may ask.
pub const GROUP: u32 = 4242;
/// Somebody in it.
pub const CALLER: u32 = 4001;

/// An agent under way.
pub struct Agent<'w> {
    world: &'w World,
    node: Node,
    arguments: Vec<String>,
    running: Option<Running>,
}

impl<'w> Agent<'w> {
    /// Start one with these flags, and wait until it takes calls. The world's directory is everybody's from here on.
    pub fn start(world: &'w World, arguments: &[&str]) -> Self {
        // As /tmp is: what is root's there stays root's.
        fs::set_permissions(world.dir(), fs::Permissions::from_mode(0o1777))
            .expect("let callers into the world's directory");
        let dir = world.dir().join("agent");
        fs::create_dir_all(&dir).expect("make the agent's directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("open it");
        let mut agent = Self {
            world,
            node: world.host().clone(),
            arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
            running: None,
        };
        agent.again();
        agent
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.world.dir().join("agent/socket")
    }

    /// The directory of this host's guardrails.
    pub fn guardrails(world: &World) -> PathBuf {
        world.dir().join("guardrails")
    }

    /// Start it, or another one in its place. Where the world has a file `targets`, these are the host's that are told of runs.
    pub fn again(&mut self) {
        let mut line = vec![
            "env".to_owned(),
            format!("BLACKSTART_STATE={}", guard::state(self.world).display()),
            format!(
                "BLACKSTART_GUARDRAILS={}",
                Self::guardrails(self.world).display()
            ),
        ];
        let targets = self.world.dir().join("targets");
        if targets.exists() {
            line.push(format!("BLACKSTART_NOTIFY={}", targets.display()));
        }
        line.extend([
            guard::binary(),
            "agent".to_owned(),
            format!("--socket={}", self.socket().display()),
            format!("--group={GROUP}"),
        ]);
        line.extend(self.arguments.iter().cloned());
        let mut running = self.node.start(&line);
        running.wait_for_warning("takes calls");
        self.running = Some(running);
    }

    /// The agent's process.
    pub fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("it was started")
    }

    /// End it without a word.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.signal(Signal::KILL);
            running.wait();
        }
    }

    /// What it said so far.
    pub fn says(&self) -> String {
        self.running
            .as_ref()
            .map_or_else(String::new, Running::stderr)
    }

    /// A run of somebody in the group.
    pub fn guard(&self) -> Guard<'w> {
        self.guard_as(CALLER, &GROUP.to_string())
    }

    /// A run of somebody who is in these groups.
    pub fn guard_as(&self, uid: u32, groups: &str) -> Guard<'w> {
        self.world
            .guard()
            .through(as_user(uid, groups))
            .arg(&format!("--agent={}", self.socket().display()))
    }
}

/// What to put before a command that somebody runs.
pub fn as_user(uid: u32, groups: &str) -> Vec<String> {
    [
        "setpriv",
        "--reuid",
        &uid.to_string(),
        "--regid",
        &uid.to_string(),
        "--groups",
        groups,
        "--",
    ]
    .map(str::to_owned)
    .to_vec()
}
