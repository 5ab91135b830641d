//! Lookups over TCP: what the supervisor's forwarder asks of the kernel's tables, and has written to them.
//!
//! A message is judged by `blackstart_core::decide`, from the same policy as the tables in the kernel were made of, and
//! its rows are those that the programs keep of a datagram. What the programs may write at the same time is written by
//! a program (`bs_refill_one`), under the same lock and by the same atomic adds.

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};

use blackstart_core::decide::{decide_lookup, may_lease};
use blackstart_core::name::Name;
use blackstart_core::policy::{Failure, Rank};
use blackstart_core::record::{SubjectId, Verdict};
use blackstart_core::tables::{Effect, RuleId, Ruling, Tables};
use libbpf_rs::{MapCore, MapFlags};

use super::reload::row;
use super::{Feature, Session};
use crate::abi;
use crate::fill::{address, lease_floor, numbered, words};
use crate::{Error, ErrorKind};

/// What must be loaded for lookups over TCP to be turned to a forwarder, and it to know whose they are.
pub(super) const NEEDS: [Feature; 3] = [Feature::Names, Feature::Addresses, Feature::Outcomes];

/// Programs that nobody needs who turns nothing.
pub(super) const PEERS: [&str; 2] = ["bs_getpeername4", "bs_getpeername6"];

/// Where a forwarder listens: on loopback, in one network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    netns: u64,
    v4: u16,
    v6: u16,
}

impl Listening {
    /// On these sockets, of which one may be missing; none if both are.
    ///
    /// # Errors
    /// Where the kernel does not tell a socket's port or network namespace.
    pub fn on(v4: Option<&TcpListener>, v6: Option<&TcpListener>) -> io::Result<Option<Self>> {
        let Some(any) = v4.or(v6) else {
            return Ok(None);
        };
        let port = |listener: Option<&TcpListener>| -> io::Result<u16> {
            listener.map_or(Ok(0), |listener| Ok(listener.local_addr()?.port()))
        };
        Ok(Some(Self {
            netns: netns_cookie(any)?,
            v4: port(v4)?,
            v6: port(v6)?,
        }))
    }

    /// As the programs know it; none if they know of none.
    pub(super) fn of_row(row: &abi::bs_forward) -> Option<Self> {
        (row.netns != 0).then_some(Self {
            netns: row.netns,
            v4: row.port_v4,
            v6: row.port_v6,
        })
    }

    /// Its ports, for each family; 0: none.
    pub fn ports(&self) -> [u16; 2] {
        [self.v4, self.v6]
    }

    pub(super) fn row(&self) -> abi::bs_forward {
        abi::bs_forward {
            netns: self.netns,
            port_v4: self.v4,
            port_v6: self.v6,
            pad: 0,
        }
    }
}

/// Who asks over a connection that the forwarder has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// The process; 0 unknown.
    pub subject: SubjectId,
    /// Its thread group id; 0 unknown.
    pub tgid: u32,
    /// Where its connection comes from.
    pub from: SocketAddr,
    /// The server that it connected to, as far as it knows.
    pub server: SocketAddr,
}

/// What becomes of a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lookup {
    /// Refused, or let through.
    pub verdict: Verdict,
    /// Why, numbered as in the record.
    pub rule: RuleId,
    /// A refused one is not to be answered: its rule wants it lost.
    pub lost: bool,
}

/// What of lookups over TCP could not be written to the record. Verdicts hold all the same.
#[derive(Debug, Default)]
pub struct Unwritten {
    /// How often something could not.
    pub count: u64,
    /// Why, the first time.
    pub first: Option<Error>,
}

/// What could not be read, or was not to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// A query that cannot be judged.
    Query,
    /// An answer that cannot be read in whole.
    Answer,
    /// An answer that nobody waits for.
    Unasked,
}

impl Session {
    /// Are lookups over TCP turned to the forwarder that [`Settings`](super::Settings) named?
    pub fn forwards(&self) -> bool {
        self.forwarder.is_some()
    }

    /// Where to.
    pub fn forwards_to(&self) -> Option<Listening> {
        self.forwarder
    }

    /// Whose connection from `from` the forwarder has accepted; none if it is none of this run, or has ended. To be
    /// asked once for each.
    pub fn asker(&self, from: SocketAddr) -> Result<Option<Asker>, Error> {
        let failed = |error| Error::caused(ErrorKind::Io, "look a connection up", error);
        let maps = &self.maps;
        let key = abi::bs_forwarded_key {
            addr: words(from.ip()),
            port: from.port(),
            pad: 0,
        };
        let found = maps
            .bs_forwarded
            .lookup_and_delete(abi::octets(&key))
            .map_err(failed)?;
        let Some(cookie) = found.and_then(|octets| abi::value::<u64>(&octets)) else {
            return Ok(None);
        };
        let seat = (cookie % u64::from(maps.bs_seats.max_entries())) as u32;
        let socket = row::<_, abi::bs_seat>(&maps.bs_seats, &seat)
            .filter(|seat| seat.cookie == cookie)
            .map(|seat| seat.socket)
            .or_else(|| row::<_, abi::bs_socket>(&maps.bs_sockets, &cookie));
        // A socket that has been closed since, or sent elsewhere, may have left its port to anybody.
        let Some(socket) =
            socket.filter(|socket| socket.forwarded != 0 && socket.source_port == from.port())
        else {
            return Ok(None);
        };
        let process = row::<_, abi::bs_subject>(&maps.bs_subjects, &socket.subject);
        Ok(Some(Asker {
            subject: socket.subject,
            tgid: process.map_or(0, |process| process.tgid),
            from,
            server: SocketAddr::new(address(socket.addr), socket.port),
        }))
    }

    /// What of lookups over TCP could not be written, so far.
    pub fn unwritten(&mut self) -> Unwritten {
        std::mem::take(&mut self.unwritten)
    }

    /// Judge a lookup, and record it. `tables` are those of the policy that judges.
    pub fn lookup(&mut self, tables: &Tables, asker: &Asker, name: &Name, qtype: u16) -> Lookup {
        let ruling = decide_lookup(tables, name, self.selectors(tables, asker.subject));
        let verdict = self.verdict(&ruling);
        let rule = numbered(ruling.rule, self.first_rule);
        self.keep_name(tables, name);
        self.write(&abi::bs_refill {
            kind: abi::bs_refill_kind::BS_REFILL_QUERY.0,
            name: self.keys.of_name(name),
            subject: asker.subject,
            bits: u64::from(rule) | u64::from(qtype) << 32 | u64::from(code(verdict)) << 48,
            ..abi::zeroed()
        });
        Lookup {
            verdict,
            rule,
            lost: verdict == Verdict::Deny && ruling.failure == Failure::Blackhole,
        }
    }

    /// Do answers to a lookup of this name give leases, by the policy that judges now?
    pub fn leases(&self, tables: &Tables, asker: &Asker, name: &Name) -> bool {
        let ruling = decide_lookup(tables, name, self.selectors(tables, asker.subject));
        // Only the run's own resolvers are forwarded to.
        may_lease(tables, &ruling, self.live.enforce(), true)
    }

    /// Lease what an answer gave to a name, for so many seconds: addresses, by way of the CNAMEs of `chain`. To be done
    /// before the asker has the answer.
    pub fn lease(
        &mut self,
        tables: &Tables,
        asker: &Asker,
        name: &Name,
        chain: &[Name],
        addresses: &[IpAddr],
        ttl: u32,
    ) {
        let generation = self.live.generation();
        let first_class = self.first_class();
        let denying = tables.denying_link(chain.iter().map(|link| tables.class_of_name(link)));
        let mut answer = abi::bs_answer {
            chain_len: 0,
            ..abi::zeroed()
        };
        for (place, link) in answer.chain.iter_mut().zip(chain) {
            *place = self.keys.of_name(link);
            answer.chain_len += 1;
        }
        for link in chain {
            self.keep_name(tables, link);
        }
        for given in addresses {
            let key = abi::bs_answer_key {
                name: self.keys.of_name(name),
                addr: words(*given),
            };
            let answers = &self.maps.bs_answers;
            let recorded = is_kept(answers.update(
                abi::octets(&key),
                abi::octets(&answer),
                MapFlags::NO_EXIST,
            ));
            if !recorded {
                self.count(abi::bs_refill_kind::BS_REFILL_LEASE_LOST);
            }
            self.write(&abi::bs_refill {
                kind: abi::bs_refill_kind::BS_REFILL_LEASE_FOR.0,
                name: key.name,
                subject: asker.subject,
                addr: key.addr,
                class_id: tables.class_of_name(name) + first_class,
                deny_class: if denying == 0 {
                    0
                } else {
                    denying + first_class
                },
                recorded: u32::from(recorded),
                generation,
                until: ttl.max(lease_floor(tables)),
                ..abi::zeroed()
            });
        }
    }

    /// Count what could not be read. Whether it is to be refused.
    pub fn unread(&mut self, tables: &Tables, what: Unread) -> bool {
        self.count(match what {
            Unread::Query => abi::bs_refill_kind::BS_REFILL_QUERY_MALFORMED,
            Unread::Answer => abi::bs_refill_kind::BS_REFILL_ANSWER_MALFORMED,
            Unread::Unasked => abi::bs_refill_kind::BS_REFILL_ANSWER_UNASKED,
        });
        self.live.enforce() && tables.enforce
    }

    fn count(&mut self, kind: abi::bs_refill_kind) {
        self.write(&abi::bs_refill {
            kind: kind.0,
            ..abi::zeroed()
        });
    }

    fn write(&mut self, what: &abi::bs_refill) {
        // What failed to be loaded will fail again, and each time the loop would wait for it.
        if self.whole.is_none() && self.filler.is_none() && self.unwritten.count > 0 {
            self.unwritten.count += 1;
        } else if let Err(error) = self.refill(what) {
            self.unwritten.count += 1;
            self.unwritten.first.get_or_insert(error);
        }
    }

    /// Keep a name's text for the record, as `bs_name_keep`.
    fn keep_name(&mut self, tables: &Tables, name: &Name) {
        let mut kept: abi::bs_name = abi::zeroed();
        let wire = name.as_wire();
        kept.wire[..wire.len()].copy_from_slice(wire);
        kept.len = wire.len() as u16;
        kept.hash = self.keys.of_name(name);
        kept.class_id = tables.class_of_name(name) + self.first_class();
        let names = &self.maps.bs_names;
        let id = kept.hash.to_ne_bytes();
        if !is_kept(names.update(&id, abi::octets(&kept), MapFlags::NO_EXIST)) {
            self.count(abi::bs_refill_kind::BS_REFILL_LEASE_LOST);
        }
    }

    /// Where the classes of the policy that judges begin.
    fn first_class(&self) -> u32 {
        self.room.offsets(self.live.generation() & 1, 0).class
    }

    /// Which selectors hold for a process, as `bs_selectors_of`.
    pub(super) fn selectors(&self, tables: &Tables, subject: SubjectId) -> u64 {
        if tables.selectors.is_empty() {
            return 0;
        }
        let place = (self.live.generation() & 1) as usize;
        row::<_, abi::bs_subject>(&self.maps.bs_subjects, &subject)
            .map_or(0, |process| process.selectors[place])
    }

    /// What becomes of a lookup that is ruled so, as `bs_verdict_of`.
    fn verdict(&self, ruling: &Ruling) -> Verdict {
        match ruling.effect {
            Effect::Deny if !ruling.enforce => Verdict::WouldDeny,
            Effect::Deny if self.live.enforce() => Verdict::Deny,
            Effect::Deny if self.live.break_glass() => Verdict::BreakGlass,
            Effect::Deny => Verdict::WouldDeny,
            _ if ruling.rank == Rank::Waiver => Verdict::Waived,
            _ => Verdict::Allow,
        }
    }
}

/// Is a row there now, from this or from before?
fn is_kept(updated: libbpf_rs::Result<()>) -> bool {
    updated.map_or_else(
        |error| error.kind() == libbpf_rs::ErrorKind::AlreadyExists,
        |()| true,
    )
}

fn code(verdict: Verdict) -> u8 {
    let code = match verdict {
        Verdict::Allow => abi::bs_verdict::BS_ALLOW,
        Verdict::Deny => abi::bs_verdict::BS_DENY,
        Verdict::WouldDeny => abi::bs_verdict::BS_WOULD_DENY,
        Verdict::Waived => abi::bs_verdict::BS_WAIVED,
        Verdict::BreakGlass => abi::bs_verdict::BS_BREAK_GLASS,
    };
    code.0 as u8
}

/// The cookie of a socket's network namespace, by which the programs know it.
fn netns_cookie(socket: &TcpListener) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the option writes at most `length` octets to `cookie`.
    let got = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if got == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}
