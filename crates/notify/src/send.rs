//! Sending what waits in the spool.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use blackstart_core::history::Micros;
use blackstart_core::notify::{Sink, Target};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Error};

use crate::names::HostNames;
use crate::now;
use crate::place::Place;
use crate::spool::{Entry, Message, entries, tidy};

/// For one message, from the name's lookup to the answer.
const AT_MOST: Duration = Duration::from_secs(5);
/// So many targets at the same time: one that hangs does not hold up the others.
const TOGETHER: usize = 8;
/// Seconds until the next try.
const PAUSES: [u64; 6] = [1, 5, 30, 120, 600, 1800];

/// How long somebody waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Somebody looks on: everything is tried once, whenever it is due.
    Attended,
    /// Nobody does: what is due is tried, and again, for half a minute.
    Unattended,
}

impl Patience {
    fn life(self) -> Duration {
        match self {
            Self::Attended => Duration::from_secs(60),
            Self::Unattended => Duration::from_secs(30),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flushed {
    /// So many messages were taken.
    pub sent: u64,
    /// These still wait, the earliest first.
    pub waiting: Vec<Waiting>,
    /// So many were too old or too many.
    pub dropped: u64,
}

/// A message that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// For whom; without secrets.
    pub target: String,
    /// Since when.
    pub since: Micros,
    /// How often it was tried.
    pub tried: u32,
    /// What came of it the last time.
    pub why: String,
}

/// What came of one try.
enum Outcome {
    Sent,
    /// The target is not to be bothered with anything else for now.
    Later(String),
    /// This message is not taken; others may be.
    Refused(String),
}

/// Send what waits below `state`. One process does so at a time; another one waits for it.
pub fn flush(state: &Path, patience: Patience) -> io::Result<Flushed> {
    let Some(place) = Place::existing(state) else {
        return Ok(Flushed::default());
    };
    let until = Instant::now() + patience.life();
    let Some(_lock) = place.lock("sender", patience.life())? else {
        return Ok(Flushed {
            waiting: waiting(&place)?,
            ..Flushed::default()
        });
    };
    let mut flushed = Flushed {
        dropped: tidy(&place),
        ..Flushed::default()
    };
    let mut client = None;
    loop {
        let time = now();
        let due: Vec<Entry> = entries(&place)?
            .into_iter()
            .filter(|entry| patience == Patience::Attended || entry.next <= time)
            .collect();
        if !due.is_empty() {
            let client = client.get_or_insert_with(agent);
            flushed.sent += pass(&place.spool(), due, client, until);
        }
        if patience == Patience::Attended {
            break;
        }
        let Some(next) = entries(&place)?.first().map(|entry| entry.next) else {
            break;
        };
        let pause = Duration::from_micros(u64::try_from(next - now()).unwrap_or(0));
        if Instant::now() + pause + Duration::from_millis(100) >= until {
            break;
        }
        thread::sleep(pause.max(Duration::from_millis(10)));
    }
    flushed.waiting = waiting(&place)?;
    Ok(flushed)
}

/// Try each of these once, target by target; how many were taken.
fn pass(spool: &Path, due: Vec<Entry>, client: &Agent, until: Instant) -> u64 {
    let mut by_target: BTreeMap<String, Vec<(Entry, Message)>> = BTreeMap::new();
    for entry in due {
        match entry.message(spool) {
            Some(message) => {
                let key = Target::Alert(message.form, message.to.clone()).key();
                by_target.entry(key).or_default().push((entry, message));
            }
            // Nobody can read it: it is put off until it is too old.
            None => entry.put_off(spool, None, now() + pause(u32::MAX)),
        }
    }
    let groups: Vec<Vec<(Entry, Message)>> = by_target.into_values().collect();
    let mut sent = 0;
    for together in groups.chunks(TOGETHER) {
        sent += thread::scope(|scope| {
            let threads: Vec<_> = together
                .iter()
                .map(|group| scope.spawn(|| to_target(spool, group, client, until)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or(0))
                .sum::<u64>()
        });
    }
    sent
}

fn to_target(spool: &Path, group: &[(Entry, Message)], client: &Agent, until: Instant) -> u64 {
    let mut sent = 0;
    let mut put_off = None;
    for (entry, message) in group {
        if let Some(next) = put_off {
            entry.put_off(spool, None, next);
            continue;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let (why, all) = match send(message, client, left.min(AT_MOST)) {
            Outcome::Sent => {
                entry.remove(spool);
                sent += 1;
                continue;
            }
            Outcome::Later(why) => (why, true),
            Outcome::Refused(why) => (why, false),
        };
        let message = Message {
            tried: message.tried.saturating_add(1),
            why,
            ..message.clone()
        };
        // What is not taken is not taken in a second either.
        let tried = if all { message.tried } else { u32::MAX };
        let next = now() + pause(tried);
        entry.put_off(spool, Some(&message), next);
        put_off = all.then_some(next);
    }
    sent
}

fn pause(tried: u32) -> Micros {
    let at = usize::try_from(tried.saturating_sub(1)).unwrap_or(usize::MAX);
    let seconds = PAUSES[at.min(PAUSES.len() - 1)];
    Micros::try_from(seconds).unwrap_or(Micros::MAX) * 1_000_000
}

fn waiting(place: &Place) -> io::Result<Vec<Waiting>> {
    let mut waiting: Vec<Waiting> = entries(place)?
        .into_iter()
        .map(|entry| match entry.message(&place.spool()) {
            Some(message) => Waiting {
                target: Target::Alert(message.form, message.to).to_string(),
                since: entry.made,
                tried: message.tried,
                why: message.why,
            },
            None => Waiting {
                target: "a message".to_owned(),
                since: entry.made,
                tried: 0,
                why: "it cannot be read".to_owned(),
            },
        })
        .collect();
    waiting.sort_by_key(|it| it.since);
    Ok(waiting)
}

/// A client that trusts whom the host trusts. It goes through the proxy that the environment names, as a person's would,
/// and follows no redirection: what is sent is meant for this URL.
fn agent() -> Agent {
    let trusted = rustls_native_certs::load_native_certs();
    for error in &trusted.errors {
        tracing::debug!(%error, "certificates of the host");
    }
    let roots = trusted
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned());
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots.collect())))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("blackstart/", env!("CARGO_PKG_VERSION")))
        .build();
    Agent::with_parts(config, DefaultConnector::default(), HostNames)
}

fn send(message: &Message, client: &Agent, time: Duration) -> Outcome {
    let url = match url(message) {
        Ok(url) => url,
        Err(why) => return Outcome::Later(why),
    };
    let sent = client
        .post(&url)
        .config()
        .timeout_global(Some(time))
        .build()
        .content_type("application/json")
        .send(message.body.to_string());
    match sent.map(|answer| answer.status().as_u16()) {
        Ok(200..=299) => Outcome::Sent,
        Ok(code @ (408 | 425 | 429 | 500..=599)) => Outcome::Later(format!("it answered {code}")),
        Ok(code) => Outcome::Refused(format!("it answered {code}")),
        Err(error) => Outcome::Later(harmless(&error)),
    }
}

/// Where a message goes.
fn url(message: &Message) -> Result<String, String> {
    let url = match &message.to {
        Sink::Url(url) => url.clone(),
        Sink::UrlIn(path) => {
            let text = fs::read_to_string(path)
                .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
            Sink::checked(&text)
                .map_err(|why| format!("{} has no URL: {why}", path.display()))?
                .to_owned()
        }
    };
    let path = message.form.path();
    let bare = url.trim_end_matches('/');
    Ok(match path.is_empty() || bare.ends_with(path) {
        true => url,
        false => format!("{bare}{path}"),
    })
}

/// What went wrong, in words that cannot have the URL in them.
fn harmless(error: &Error) -> String {
    match error {
        Error::HostNotFound => "its name is not found".to_owned(),
        Error::Timeout(_) => "it does not answer in time".to_owned(),
        Error::ConnectionFailed => "no connection could be made".to_owned(),
        Error::Io(error) => error.to_string(),
        Error::Rustls(error) => format!("TLS: {error}"),
        Error::Tls(what) => format!("TLS: {what}"),
        Error::BadUri(_) | Error::InvalidProxyUrl => {
            "the URL, or that of the proxy, cannot be used".to_owned()
        }
        _ => "what it answers is no HTTP that could be understood".to_owned(),
    }
}
