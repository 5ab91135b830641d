//! The live view: what the programs tell as it happens.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use blackstart_core::record::SocketKind;

use super::Session;
use crate::fill::address;
use crate::read::{verdict, wire_text};
use crate::{AnswerWanted, Error, ErrorKind, Event, abi};

/// An event before the ids in it are resolved.
pub(super) enum RawEvent {
    Short(abi::bs_event),
    Lookup(Box<abi::bs_lookup_event>),
}

impl Session {
    /// Readable when events wait.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        let fd = self.ring.epoll_fd();
        // SAFETY: the descriptor belongs to `ring`, which lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// Hand waiting events to `each`, without blocking; `most` of them, since more may come as fast as they are read.
    pub fn drain_events(&mut self, most: usize, each: &mut dyn FnMut(Event)) -> Result<(), Error> {
        let read = self.ring.consume_raw_n(most);
        if read < 0 {
            let error = std::io::Error::from_raw_os_error(-read);
            return Err(Error::caused(ErrorKind::Io, "read the live view", error));
        }
        let waiting = std::mem::take(&mut *self.events.borrow_mut());
        for raw in waiting {
            each(self.resolve(raw));
        }
        Ok(())
    }

    fn resolve(&self, raw: RawEvent) -> Event {
        match raw {
            RawEvent::Short(event) if event.kind == abi::bs_event_kind::BS_EVENT_LEFT.0 => {
                Event::Left {
                    subject: event.subject,
                    tgid: event.tgid,
                    cgroup: event.name,
                }
            }
            RawEvent::Short(event) if event.kind == abi::bs_event_kind::BS_EVENT_CONTACT.0 => {
                Event::Contact
            }
            RawEvent::Short(event) if event.kind == abi::bs_event_kind::BS_EVENT_SOCKET.0 => {
                Event::Socket {
                    subject: event.subject,
                    tgid: self
                        .record
                        .subject(event.subject)
                        .map_or(0, |subject| subject.tgid),
                    kind: SocketKind {
                        family: (event.name >> 32) as u16,
                        kind: (event.name >> 16) as u8,
                        protocol: event.name as u16,
                    },
                    verdict: verdict(event.verdict),
                    rule: event.rule,
                }
            }
            RawEvent::Short(event) => Event::Attempt {
                subject: event.subject,
                tgid: self
                    .record
                    .subject(event.subject)
                    .map_or(0, |subject| subject.tgid),
                name: event.name,
                address: address(event.addr),
                port: event.port,
                protocol: event.protocol,
                verdict: verdict(event.verdict),
                rule: event.rule,
            },
            RawEvent::Lookup(event) => {
                let question = event.wire[..usize::from(event.len).min(event.wire.len())].to_vec();
                Event::Lookup {
                    subject: event.subject,
                    tgid: event.tgid,
                    name: wire_text(&question.to_ascii_lowercase()),
                    qtype: event.qtype,
                    verdict: verdict(event.verdict),
                    rule: event.rule,
                    answer: (event.answer != 0).then(|| AnswerWanted {
                        tgid: event.tgid,
                        id: event.id,
                        flags: event.flags,
                        question,
                        qtype: event.qtype,
                        qclass: event.qclass,
                        edns: event.edns != 0,
                        client: SocketAddr::new(address(event.client), event.client_port),
                        server: SocketAddr::new(address(event.server), event.server_port),
                    }),
                }
            }
        }
    }
}

/// An event as it lies in the ring; none for one that is too short.
pub(super) fn raw_event(octets: &[u8]) -> Option<RawEvent> {
    let kind: u32 = abi::value(octets)?;
    if kind == abi::bs_event_kind::BS_EVENT_LOOKUP.0 {
        abi::value(octets).map(|event| RawEvent::Lookup(Box::new(event)))
    } else {
        abi::value(octets).map(RawEvent::Short)
    }
}
