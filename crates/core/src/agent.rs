//! What a caller says to the agent: words in packets, and the order of a run in a file that comes along with one.
//!
//! Both come from whoever may connect, and are read by a process with root's privileges. So everything has its bounds, and what
//! is not known is refused: an older agent must not overlook what a newer caller asks for.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::report::{Leftover, Mode, Overtime};

/// Of this protocol. What another one says is not read.
pub const VERSION: u32 = 1;
/// Largest packet.
pub const MAX_PACKET: usize = 64 << 10;
/// Largest file with an order: a policy has its own bound for each of its files.
pub const MAX_ORDER: usize = 64 << 20;

const MAX_WORDS: usize = 64 << 10;
const MAX_FILES: usize = 300;
const MAX_PATTERNS: usize = 64;
const MAX_PATTERN: usize = 4 << 10;
const MAX_GAPS: usize = 64;
const MAX_NAME: usize = 4 << 10;

/// What a packet says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Word {
    /// Guard a command; the file with the order comes along.
    Run {},
    /// This is its process, which waits; its descriptor comes along.
    Child {},
    /// The command has ended.
    Ended(End),
    /// The report of a run whose agent has ended meanwhile.
    Report {
        /// Its id.
        run: String,
        /// How its command ended.
        ended: End,
    },
    /// What happens in such a run is to be told, as by the agent that has ended.
    Listen {
        /// Its id.
        run: String,
    },
}

/// How a command ended, as its parent saw it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// As a shell gives it.
    pub exit_code: i32,
    /// Its time was over.
    pub overtime: Option<Overtime>,
    /// Processes that went into the background while limits held them.
    pub daemons: Vec<Leftover>,
    /// The most processes that were seen at once.
    pub highest_pids: Option<u64>,
}

/// A run as its caller wants it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The command's words, for the record: the agent runs nothing.
    pub command: Vec<String>,
    /// What it deploys, as typed.
    pub service: Option<String>,
    /// Observe or enforce, as typed.
    pub mode: Option<Mode>,
    /// What becomes of processes that outlive the command, as typed.
    pub leftover: Option<AtEnd>,
    /// Kinds of gaps that are accepted.
    pub accept_gaps: Vec<String>,
    /// With or without its privileges, as typed.
    pub contain: Option<bool>,
    /// Beside an orphan of the same service.
    pub concurrent: bool,
    /// Patterns of what is a secret in command lines.
    pub redact: Vec<String>,
    /// Seconds after which the caller ends the command, as typed.
    pub time_limit: Option<u64>,
    /// The files of the caller's policy, the named one first, then what it includes.
    pub policy: Vec<Text>,
}

/// A file, as the caller has read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// As the caller calls it.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// What becomes of processes that outlive the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AtEnd {
    /// They go on, no longer guarded.
    Release,
    /// They are ended.
    Kill,
    /// They go on, still guarded.
    Keep,
    /// They were waited for.
    Wait,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Packet {
    version: u32,
    word: Word,
}

/// Read first, and so by itself: another version may have other words.
#[derive(Deserialize)]
struct OfVersion {
    version: u32,
}

/// The packet that says this; none if it says too much.
pub fn packet(word: &Word) -> Option<Vec<u8>> {
    let packet = Packet {
        version: VERSION,
        word: word.clone(),
    };
    serde_json::to_vec(&packet)
        .ok()
        .filter(|octets| octets.len() <= MAX_PACKET)
}

/// What a packet says, or what is wrong with it.
pub fn read_packet(octets: &[u8]) -> Result<Word, String> {
    if octets.len() > MAX_PACKET {
        return Err(format!("the request has more than {MAX_PACKET} octets"));
    }
    let version = json::<OfVersion>(octets)?.version;
    if version != VERSION {
        return Err(format!(
            "the request is of version {version}, and this agent reads {VERSION}; use the same release on both sides"
        ));
    }
    let word = json::<Packet>(octets)?.word;
    if let Word::Report { run, .. } | Word::Listen { run } = &word
        && !is_id(run)
    {
        return Err("a run's id is 36 hexadecimal digits and hyphens".to_owned());
    }
    Ok(word)
}

/// The file with an order.
pub fn order(order: &Order) -> Option<Vec<u8>> {
    serde_json::to_vec(order)
        .ok()
        .filter(|octets| octets.len() <= MAX_ORDER)
}

/// The order in a file, or what is wrong with it.
pub fn read_order(octets: &[u8]) -> Result<Order, String> {
    if octets.len() > MAX_ORDER {
        return Err(format!("the order has more than {MAX_ORDER} octets"));
    }
    let order: Order = json(octets)?;
    let bounds = [
        ("words", order.command.len(), MAX_WORDS),
        ("files", order.policy.len(), MAX_FILES),
        ("patterns", order.redact.len(), MAX_PATTERNS),
        ("accepted gaps", order.accept_gaps.len(), MAX_GAPS),
    ];
    if let Some((what, _, most)) = bounds.into_iter().find(|(_, have, most)| have > most) {
        return Err(format!("the order has more than {most} {what}"));
    }
    if order.command.is_empty() {
        return Err("the order names no command".to_owned());
    }
    let names = order.policy.iter().map(|file| &file.name);
    let mut names = names.chain(&order.service).chain(&order.accept_gaps);
    if names.any(|name| name.len() > MAX_NAME)
        || order.redact.iter().any(|it| it.len() > MAX_PATTERN)
    {
        return Err(format!(
            "a name or pattern in the order has more than {MAX_NAME} octets"
        ));
    }
    if order.service.as_deref() == Some("") {
        return Err("the order's service has no name".to_owned());
    }
    Ok(order)
}

/// In the form that ids of runs have. It becomes part of a path.
fn is_id(text: &str) -> bool {
    let hyphen = |at: usize| [8, 13, 18, 23].contains(&at);
    text.len() == 36
        && text.bytes().enumerate().all(|(at, octet)| {
            if hyphen(at) {
                octet == b'-'
            } else {
                octet.is_ascii_digit() || (b'a'..=b'f').contains(&octet)
            }
        })
}

fn json<T: DeserializeOwned>(octets: &[u8]) -> Result<T, String> {
    serde_json::from_slice(octets).map_err(|error| format!("the request cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Vec<Word> {
        let end = End {
            exit_code: 7,
            overtime: Some(Overtime {
                at_ns: 1,
                ended: vec![Leftover {
                    tgid: 2,
                    argv: vec!["sleep".to_owned(), "9".to_owned()],
                }],
                spared: Vec::new(),
            }),
            daemons: Vec::new(),
            highest_pids: Some(3),
        };
        vec![
            Word::Run {},
            Word::Child {},
            Word::Ended(end.clone()),
            Word::Report {
                run: "01980000-0000-7000-8000-000000000001".to_owned(),
                ended: end,
            },
            Word::Listen {
                run: "01980000-0000-7000-8000-000000000001".to_owned(),
            },
        ]
    }

    fn whole_order() -> Order {
        Order {
            command: vec!["./deploy.sh".to_owned(), "--now".to_owned()],
            service: Some("mysql".to_owned()),
            mode: Some(Mode::Enforce),
            leftover: Some(AtEnd::Kill),
            accept_gaps: vec!["contain".to_owned()],
            contain: Some(false),
            concurrent: true,
            redact: vec!["s.cret".to_owned()],
            time_limit: Some(90),
            policy: vec![Text {
                name: "p.yaml".to_owned(),
                text: "kind: Policy\n".to_owned(),
            }],
        }
    }

    #[test]
    fn what_is_said_is_heard() {
        for word in words() {
            assert_eq!(read_packet(&packet(&word).unwrap()), Ok(word));
        }
        let order_file = order(&whole_order()).unwrap();
        assert_eq!(read_order(&order_file), Ok(whole_order()));
    }

    #[test]
    fn what_is_not_known_is_refused_and_says_why() {
        let wrong = |text: &str| read_packet(text.as_bytes()).unwrap_err();
        assert!(wrong(r#"{"version":2,"word":{"fly":{}}}"#).contains("version 2"));
        assert!(wrong(r#"{"version":1,"word":{"fly":{}}}"#).contains("unknown variant"));
        assert!(wrong(r#"{"version":1,"word":{"run":{"as":0}}}"#).contains("unknown field"));
        assert!(wrong(r#"{"version":1}"#).contains("word"));
        assert!(wrong("").contains("cannot be read"));
        assert!(wrong(&"[".repeat(5000)).contains("cannot be read"));
        let id = |run: &str| {
            let word = Word::Report {
                run: run.to_owned(),
                ended: End::default(),
            };
            let listens = Word::Listen {
                run: run.to_owned(),
            };
            let read = read_packet(&packet(&word).unwrap());
            assert_eq!(
                read.is_ok(),
                read_packet(&packet(&listens).unwrap()).is_ok()
            );
            read
        };
        for bad in [
            "",
            "../../../etc/shadow",
            "01980000-0000-7000-8000-00000000000/",
        ] {
            assert!(id(bad).is_err(), "{bad}");
        }
        assert!(
            read_packet(&vec![b' '; MAX_PACKET + 1])
                .unwrap_err()
                .contains("more than")
        );
        let with = |change: &dyn Fn(&mut Order)| {
            let mut changed = whole_order();
            change(&mut changed);
            read_order(&order(&changed).unwrap())
        };
        assert!(with(&|order| order.command.clear()).is_err());
        assert!(with(&|order| order.service = Some(String::new())).is_err());
        assert!(with(&|order| order.redact = vec!["x".repeat(5000)]).is_err());
        assert!(with(&|order| order.accept_gaps = vec![String::new(); 65]).is_err());
    }

    /// Damage that comes out of a seed: no word of it may end the agent, and what is taken is what could have been said.
    #[test]
    fn damaged_requests_are_refused_or_mean_something() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below.max(1) as u64) as usize
        };
        let mut samples: Vec<Vec<u8>> = words().iter().filter_map(packet).collect();
        samples.extend(order(&whole_order()));
        for round in 0..40_000 {
            let mut octets = samples[round % samples.len()].clone();
            for _ in 0..=random(4) {
                let at = random(octets.len());
                match random(5) {
                    0 => octets.truncate(at),
                    1 => octets.insert(at.min(octets.len()), random(256) as u8),
                    2 if !octets.is_empty() => octets[at] ^= 1 << random(8),
                    3 => {
                        let part: Vec<u8> = octets[at.min(octets.len())..].to_vec();
                        octets.extend(part);
                    }
                    _ if !octets.is_empty() => {
                        octets.remove(at);
                    }
                    _ => {}
                }
            }
            if let Ok(word) = read_packet(&octets) {
                assert_eq!(read_packet(&packet(&word).unwrap()), Ok(word));
            }
            if let Ok(read) = read_order(&octets) {
                assert_eq!(read_order(&order(&read).unwrap()), Ok(read));
            }
        }
    }
}
