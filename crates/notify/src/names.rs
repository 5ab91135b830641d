//! Names of hosts that alerts go to.
//!
//! The released binary is linked statically, and a static program that asks the C library would load the host's
//! name-service modules, which may be made for another version of it. `getent` is the host's own program for this.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

const STEP: Duration = Duration::from_millis(5);
/// Nobody has more, and the client tries no more.
const MOST: usize = 16;

/// Asks `getent`.
#[derive(Debug, Default)]
pub(crate) struct HostNames;

impl Resolver for HostNames {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?;
        let port = uri.port_u16().unwrap_or(match uri.scheme_str() {
            Some("http") => 80,
            _ => 443,
        });
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        let addresses = match literal.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => match asked(host, *timeout.after) {
                Some(addresses) => addresses,
                // There is no getent.
                None => return DefaultResolver::default().resolve(uri, config, timeout),
            },
        };
        let mut found = self.empty();
        for address in addresses.into_iter().take(MOST) {
            found.push(SocketAddr::new(address, port));
        }
        if found.is_empty() {
            return Err(ureq::Error::HostNotFound);
        }
        Ok(found)
    }
}

/// The addresses of a name, in the order of preference; none if there is nobody to ask.
fn asked(host: &str, patience: Duration) -> Option<Vec<IpAddr>> {
    if host.starts_with('-') {
        return Some(Vec::new());
    }
    let mut child = Command::new("getent")
        .args(["ahosts", host])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let text = answer(&mut child, Instant::now() + patience);
    let mut addresses = Vec::new();
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if let Ok(address) = first.parse()
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    Some(addresses)
}

/// What it says, if it is done in time. A pipe holds more than any answer.
fn answer(child: &mut Child, until: Instant) -> String {
    let mut text = String::new();
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if Instant::now() < until => thread::sleep(STEP),
            _ => {
                let _gone = child.kill();
                let _reaped = child.wait();
                return text;
            }
        }
    }
    if let Some(mut out) = child.stdout.take() {
        let _unread = out.read_to_string(&mut text);
    }
    text
}
