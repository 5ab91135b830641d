//! The graph: which service needs which, and by what evidence.
//!
//! [`build()`] joins what files declare, what imports bring and what runs were seen to reach for. On it:
//! [`loops`] finds the circles that a deployment closes, [`recovery`] the order in which everything comes
//! back from black, [`impact`] what an outage does to deployments, [`findings`] what somebody ought to look
//! at. All of these are functions from values to values, and the same input gives the same output whatever
//! the order in which it was given.

mod build;
mod cut;
pub mod findings;
pub mod impact;
pub mod loops;
mod observe;
mod path;
pub mod recovery;
mod script;
mod told;

use std::collections::BTreeMap;

use crate::catalog::{Phase, Place, Strength};
use crate::report::{Time, Verdict};

pub use build::{Import, Input, Observed, build};
pub use cut::Cut;
pub use script::{Found, OwnScript, directory_of_command, named_in, own_scripts};
pub use told::of_run;

/// A node, by its place in the graph's order. Only of use with the graph that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    pub(crate) fn new(index: usize) -> Self {
        // A graph of 2^32 nodes does not fit into memory.
        Self(index as u32)
    }

    /// Its place in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A need, by its place in the graph's order. Only of use with the graph that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NeedId(pub(crate) u32);

impl NeedId {
    pub(crate) fn new(index: usize) -> Self {
        Self(index as u32)
    }

    /// Its place in [`Graph::needs`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A service of the catalog.
    Service,
    /// A service that a run or an import names and the catalog does not have.
    Unlisted,
    /// A destination that no service provides.
    Destination,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The service's name, or the destination.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Whom to ask.
    pub owner: Option<String>,
    /// How critical it is; 1 is the most.
    pub tier: Option<u32>,
    /// Where the catalog describes it, if it does.
    pub place: Option<Place>,
}

impl Node {
    /// Is it a service, of the catalog or not?
    pub fn is_service(&self) -> bool {
        self.kind != Kind::Destination
    }
}

/// That one needs another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Who needs.
    pub from: NodeId,
    /// What is needed.
    pub to: NodeId,
    /// For what.
    pub phase: Phase,
    /// How that is known: declarations, then imports, then runs in the order of their start.
    pub evidence: Vec<Evidence>,
}

/// How a need is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// A file of the catalog says so.
    Declared {
        /// Where.
        place: Place,
        /// What its author says of the need's strength.
        claim: Option<Strength>,
        /// Why, in its author's words.
        reason: Option<String>,
    },
    /// It was imported.
    Imported {
        /// From what kind of thing, such as `jaeger`.
        format: String,
        /// Where.
        place: Place,
    },
    /// A run was seen to reach for it.
    Observed(Box<Contact>),
}

/// That a process of a run reached for a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// The run's id.
    pub run: String,
    /// When it started.
    pub started: Time,
    /// The host that it ran on.
    pub host: String,
    /// The process, as the report numbers it; none where it is not known.
    pub subject: Option<u64>,
    /// What the process and its ancestors are called, the process first; what is called the same as the one before
    /// is left out.
    pub chain: Vec<String>,
    /// Its command line, redacted.
    pub command: Vec<String>,
    /// Name or address, and port; or `unix:` and the path.
    pub destination: String,
    /// What became of it.
    pub verdict: Verdict,
    /// The destination is named in the command line, in a script of the deployment's own, or in the arguments
    /// of what such a script executed. Otherwise the tool knew it by itself.
    pub named: bool,
    /// How often.
    pub attempts: u64,
    /// First time.
    pub first_seen: Time,
    /// Last time.
    pub last_seen: Time,
    /// What the refusal of it showed, if it was one.
    pub shown: Option<Strength>,
}

impl std::fmt::Display for Evidence {
    /// One line. Texts of processes may hold anything; whoever shows it escapes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Declared {
                place,
                claim,
                reason,
            } => {
                write!(f, "declared in {place}")?;
                if let Some(claim) = claim {
                    write!(f, " as {claim}")?;
                }
                match reason {
                    Some(reason) => write!(f, ": {reason}"),
                    None => Ok(()),
                }
            }
            Self::Imported { format, place } => write!(f, "imported from {format}, {place}"),
            Self::Observed(contact) => write!(f, "{contact}"),
        }
    }
}

impl std::fmt::Display for Contact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let by = match self.chain.is_empty() {
            true => "an unknown process".to_owned(),
            false => self.chain.join(" ← "),
        };
        let word = match self.verdict {
            Verdict::Deny => "was refused",
            Verdict::WouldDeny => "reached (enforce would refuse it)",
            Verdict::Allow | Verdict::Waived | Verdict::BreakGlass => "reached",
        };
        let times = match self.attempts {
            1 => "once".to_owned(),
            times => format!("{times} times"),
        };
        write!(
            f,
            "{by} {word} {} {times}, run {} on {}, {}",
            self.destination, self.run, self.host, self.last_seen
        )
    }
}

impl Need {
    /// What experiments have shown; the latest counts, and of one run the worse.
    pub fn shown(&self) -> Option<Strength> {
        self.contacts()
            .filter_map(|contact| Some((&contact.started, &contact.run, contact.shown?)))
            .max()
            .map(|(_, _, strength)| strength)
    }

    /// What is claimed of it; of several claims the worse.
    pub fn claimed(&self) -> Option<Strength> {
        self.evidence
            .iter()
            .filter_map(|evidence| match evidence {
                Evidence::Declared { claim, .. } => *claim,
                _ => None,
            })
            .max()
    }

    /// What is known of its strength: what was shown, or else what is claimed.
    pub fn strength(&self) -> Option<Strength> {
        self.shown().or_else(|| self.claimed())
    }

    /// The contacts that it was seen by.
    pub fn contacts(&self) -> impl Iterator<Item = &Contact> {
        self.evidence.iter().filter_map(|evidence| match evidence {
            Evidence::Observed(contact) => Some(&**contact),
            _ => None,
        })
    }

    /// Does a file of the catalog, or an import, say so?
    pub fn is_declared(&self) -> bool {
        !self
            .evidence
            .iter()
            .all(|evidence| matches!(evidence, Evidence::Observed(_)))
    }
}

/// How much runs have shown of what a service needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watched {
    /// There was no run, or none that was guarded.
    Never,
    /// Some run was watched, but of none was everything seen: it failed, so that nobody knows what it would have
    /// reached for next, or its end was not seen, or something was lost.
    InPart,
    /// A run succeeded, and nothing that it reached for was lost.
    Whole,
}

/// Services, unowned destinations, and the needs between them.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    /// In the order of who needs, what is needed, and for what.
    needs: Vec<Need>,
    /// Where the needs of each node begin, and the end.
    starts: Vec<u32>,
    /// Contacts of deployments with their own instance on their own host: never part of a loop.
    selves: Vec<(NodeId, Contact)>,
    /// Whose needs were watched in at least one run, which, and how much of them.
    watched: BTreeMap<(NodeId, Phase), Watched>,
    /// Ids of runs that do not say what they deploy.
    unassigned: Vec<String>,
}

impl Graph {
    /// The nodes: the catalog's services, then other services, then destinations, each in the order of their
    /// names.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The ids of all of them, in the same order.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId::new)
    }

    /// A node.
    ///
    /// # Panics
    ///
    /// If the id is another graph's.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The service with this name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        let listed = self
            .nodes
            .partition_point(|node| node.kind == Kind::Service);
        let services = self.nodes.partition_point(Node::is_service);
        let among = |from: usize, to: usize| {
            self.nodes[from..to]
                .binary_search_by(|node| node.name.as_str().cmp(name))
                .ok()
                .map(|index| NodeId::new(from + index))
        };
        among(0, listed).or_else(|| among(listed, services))
    }

    /// All needs, in the order of who needs, what is needed, and for what.
    pub fn needs(&self) -> &[Need] {
        &self.needs
    }

    /// A need.
    ///
    /// # Panics
    ///
    /// If the id is another graph's.
    pub fn need(&self, id: NeedId) -> &Need {
        &self.needs[id.index()]
    }

    /// The needs of a node.
    pub fn needs_of(&self, id: NodeId) -> impl Iterator<Item = (NeedId, &Need)> {
        let range = self.starts[id.index()] as usize..self.starts[id.index() + 1] as usize;
        let ids = range.clone().map(NeedId::new);
        ids.zip(&self.needs[range])
    }

    /// The need of one node of another for a phase.
    pub fn find_need(&self, from: NodeId, to: NodeId, phase: Phase) -> Option<NeedId> {
        let range = self.starts[from.index()] as usize..self.starts[from.index() + 1] as usize;
        self.needs[range.clone()]
            .binary_search_by_key(&(to, phase), |need| (need.to, need.phase))
            .ok()
            .map(|index| NeedId::new(range.start + index))
    }

    /// The needs of one node of another, whatever for.
    pub fn between(&self, from: NodeId, to: NodeId) -> impl Iterator<Item = NeedId> {
        [Phase::Run, Phase::Deploy]
            .into_iter()
            .filter_map(move |phase| self.find_need(from, to, phase))
    }

    /// Contacts of deployments with their own instance on their own host.
    pub fn selves(&self) -> impl Iterator<Item = (NodeId, &Contact)> {
        self.selves.iter().map(|(id, contact)| (*id, contact))
    }

    /// How much of what this service needs for this phase was watched, in the run that shows the most.
    pub fn watched(&self, id: NodeId, phase: Phase) -> Watched {
        let known = self.watched.get(&(id, phase));
        known.copied().unwrap_or(Watched::Never)
    }

    /// Ids of the runs that do not say what they deploy: what they reached for is nobody's need.
    pub fn unassigned(&self) -> &[String] {
        &self.unassigned
    }
}
