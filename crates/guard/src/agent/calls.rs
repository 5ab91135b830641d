//! What one caller wants, from its first word to the end of its run.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use blackstart_core::agent::{MAX_ORDER, Order, Word, read_order, read_packet};

use super::office::{AHEAD, Call, Office, locked, make_ahead};
use super::reply::{Judging, Reply};
use super::wire::{Link, read_sealed};
use super::{Event, Wanted, Why, take_up, units};
use crate::Request;
use crate::refusal::{Cause, Refusal};
use crate::run::hosted::{Shared, host};
use crate::run::spare::Spare;

/// How long a caller may take with a word, and with hearing one.
const PATIENCE: Duration = Duration::from_secs(5);
/// An order beyond this is read while no other such is.
const LARGE: usize = 1 << 20;

/// Hear what a caller wants, and do it.
pub(super) fn attend(call: &Call, spare: Option<Spare>) {
    let had_one = spare.is_some();
    let mut spare = spare;
    if let Err(refusal) = hear(call, &mut spare) {
        say_refused(&call.link, &refusal.what, &refusal.why, &refusal.remedy);
        (call.office.tell)(Event::Refused {
            caller: Some((call.caller.uid, call.caller.pid)),
            why: Why::Run(refusal.cause),
            text: refusal.to_string(),
        });
    }
    if let Some(unused) = spare {
        unused.discard();
        if had_one {
            make_ahead(&call.office);
        }
    }
}

fn hear(call: &Call, spare: &mut Option<Spare>) -> Result<(), Refusal> {
    let (link, office) = (&call.link, &call.office);
    let io = |error: io::Error| not_understood(error.to_string());
    link.set_patience(Some(PATIENCE), Some(PATIENCE))
        .map_err(io)?;
    let Some(mut packet) = link.receive().map_err(io)? else {
        // It only looked whether somebody is here.
        return Ok(());
    };
    let word = read_packet(&packet.octets).map_err(not_understood)?;
    match (word, packet.descriptors.pop()) {
        (Word::Run {}, Some(file)) => guard(call, file, spare),
        (Word::Run {}, None) => Err(not_understood(
            "no file with an order came along".to_owned(),
        )),
        (Word::Report { run, ended }, None) => {
            take_up::report(office, link, &call.caller, &run, ended)
        }
        (Word::Listen { run }, None) => take_up::listen(office, link, &call.caller, &run),
        _ => Err(not_understood("a run was to be asked for first".to_owned())),
    }
}

fn not_understood(why: String) -> Refusal {
    Refusal {
        cause: Cause::Request,
        what: "the agent does not understand its caller".to_owned(),
        why,
        remedy: String::new(),
    }
}

#[inline(never)]
fn order_in(file: OwnedFd, office: &Office) -> Result<Order, String> {
    let length = rustix::fs::fstat(&file)
        .map_err(|error| error.to_string())?
        .st_size;
    let large = usize::try_from(length).unwrap_or(usize::MAX) > LARGE;
    let _alone = large.then(|| locked(&office.large));
    let octets = read_sealed(file, MAX_ORDER).map_err(|error| error.to_string())?;
    read_order(&octets)
}

/// What the order in a file means. On the heap: what lies on the stack from here on does so as long as the run goes on.
#[inline(never)]
fn meant(call: &Call, file: OwnedFd) -> Result<(Box<Request>, Box<Judging>), Refusal> {
    let (caller, office) = (&call.caller, &call.office);
    let wanted = Wanted {
        order: order_in(file, office).map_err(not_understood)?,
        uid: caller.uid,
        rule: units::rule_over(&office.patterns, caller.pid),
    };
    match (office.resolve)(wanted) {
        Ok((request, judging)) => Ok((Box::new(request), Box::new(judging))),
        Err(wrong) => Err(Refusal {
            cause: Cause::Request,
            what: "the agent refuses this run".to_owned(),
            why: wrong.join("\n"),
            remedy: String::new(),
        }),
    }
}

/// Guard a command for its caller, up to its end.
fn guard(call: &Call, file: OwnedFd, spare: &mut Option<Spare>) -> Result<(), Refusal> {
    let (caller, office) = (&call.caller, &call.office);
    let (request, judging) = meant(call, file)?;
    let refill = spare.is_some();
    let mut began = |run: &str, pid: i32| {
        (office.tell)(Event::Began {
            run: run.to_owned(),
            uid: caller.uid,
            pid,
        });
        if refill {
            let office = Arc::clone(office);
            let later = thread::Builder::new()
                .name("ahead".to_owned())
                .spawn(move || {
                    thread::sleep(AHEAD);
                    make_ahead(&office);
                });
            if let Err(error) = later {
                tracing::warn!(%error, "no guard is made ahead");
            }
        }
    };
    let over = host(
        &request,
        caller,
        &call.link,
        spare.take(),
        Shared {
            tracer: office.tracer.as_ref(),
            hearts: office.hearts.as_deref(),
        },
        judging,
        &mut began,
    );
    let over = over.inspect_err(|_| {
        if refill {
            make_ahead(office);
        }
    })?;
    (office.tell)(Event::Over {
        run: over.id,
        record: over.record,
        finished: over.finished,
    });
    Ok(())
}

pub(super) fn say_refused(link: &Link, what: &str, why: &str, remedy: &str) {
    let mut why = why.to_owned();
    let packet = loop {
        let said = Reply::Refused {
            what: what.to_owned(),
            why: why.clone(),
            remedy: remedy.to_owned(),
        };
        match said.packet() {
            None if !why.is_empty() => {
                let mut half = why.len() / 2;
                while !why.is_char_boundary(half) {
                    half -= 1;
                }
                why.truncate(half);
            }
            other => break other,
        }
    };
    if let Some(packet) = packet {
        let _ = link.try_send(&packet);
    }
}
