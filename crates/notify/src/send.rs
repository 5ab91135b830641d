//! Sending what waits in the spool.

use std::collections::BTreeMap;
use std::fs::File;
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
use crate::place::{Place, text_of};
use crate::queue;
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
    /// Nobody does: what is due is tried, and again, for half a minute from one's turn on.
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
    let Some(_turn) = turn(&place, patience)? else {
        return Ok(Flushed {
            waiting: waiting(&place)?,
            ..Flushed::default()
        });
    };
    let until = Instant::now() + patience.life();
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

/// Wait for one's turn, for as long as somebody else may be at work. Where nobody looks on, one that waits is enough: it will
/// see what is there by then.
fn turn(place: &Place, patience: Patience) -> io::Result<Option<File>> {
    if let Some(turn) = place.lock("sender", Duration::ZERO)? {
        return Ok(Some(turn));
    }
    let _next = match patience {
        Patience::Attended => None,
        Patience::Unattended => match place.lock("next", Duration::ZERO)? {
            None => return Ok(None),
            next => next,
        },
    };
    place.lock("sender", Patience::Unattended.life())
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
    waiting.extend(queue::all(place).into_iter().filter_map(|one| {
        Some(Waiting {
            target: queue::read(place, &one)?.to.shown(),
            since: one.made,
            tried: 0,
            why: "it has not answered, or nobody has come to it yet".to_owned(),
        })
    }));
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
            let text = text_of(path)
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use blackstart_core::notify::Form;
    use serde_json::json;

    use super::*;
    use crate::spool::put;
    use std::fs;

    fn message(to: Sink, form: Form) -> Message {
        Message {
            form,
            to,
            body: json!({"x": 1}),
            tried: 0,
            why: String::new(),
        }
    }

    fn waits(place: &Place) -> usize {
        entries(place).unwrap().len()
    }

    #[test]
    fn one_that_waits_for_its_turn_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::open(dir.path()).unwrap();
        put(
            &place,
            &message(Sink::Url("http://127.0.0.1:1/".to_owned()), Form::Slack),
        )
        .unwrap();
        let _sender = place.lock("sender", Duration::ZERO).unwrap().unwrap();
        let _next = place.lock("next", Duration::ZERO).unwrap().unwrap();
        let began = Instant::now();
        let flushed = flush(dir.path(), Patience::Unattended).unwrap();
        assert!(began.elapsed() < Duration::from_secs(20));
        assert_eq!((flushed.sent, flushed.waiting.len()), (0, 1));
    }

    #[test]
    fn a_target_that_is_down_is_tried_once_and_the_others_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::open(dir.path()).unwrap();
        let up = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = up.local_addr().unwrap();
        let down = TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = down.local_addr().unwrap();
        drop(down);
        let file = dir.path().join("url");
        for _ in 0..3 {
            let url = format!("http://{nobody}/secret");
            put(&place, &message(Sink::Url(url), Form::Slack)).unwrap();
        }
        put(
            &place,
            &message(Sink::UrlIn(file.clone()), Form::Alertmanager),
        )
        .unwrap();
        let flushed = flush(dir.path(), Patience::Attended).unwrap();
        assert_eq!(flushed.waiting.iter().filter(|it| it.tried == 1).count(), 2);
        assert!(
            flushed
                .waiting
                .iter()
                .all(|it| !it.target.contains("secret") && !it.why.contains("secret"))
        );
        // The file is there now.
        fs::write(&file, format!("http://{address}/am/\n")).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = up.accept().unwrap();
            let mut text = Vec::new();
            let mut buffer = [0; 4096];
            while !text.ends_with(b"{\"x\":1}") {
                let read = stream.read(&mut buffer).unwrap();
                text.extend_from_slice(&buffer[..read]);
            }
            stream
                .write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
                .unwrap();
            String::from_utf8(text).unwrap()
        });
        let flushed = flush(dir.path(), Patience::Attended).unwrap();
        assert_eq!((flushed.sent, waits(&place)), (1, 3));
        let text = server.join().unwrap();
        assert!(
            text.starts_with("POST /am/api/v2/alerts HTTP/1.1\r\n"),
            "{text}"
        );
    }

    #[test]
    fn a_spool_that_is_not_ours_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("notify")).unwrap();
        // As it is made by whoever does not mind its readers.
        let mut open = fs::metadata(dir.path().join("notify"))
            .unwrap()
            .permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut open, 0o755);
        fs::set_permissions(dir.path().join("notify"), open).unwrap();
        assert!(Place::open(dir.path()).is_err());
        assert_eq!(
            flush(dir.path(), Patience::Attended).unwrap(),
            Flushed::default()
        );
    }
}
