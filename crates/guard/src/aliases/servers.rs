//! Which sockets are bound to files, and under which names: sock_diag(7) of AF_UNIX.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::Statx;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, recv, sendto};

use crate::connections::{
    BY_FAMILY, DONE, DUMPED, ERROR, HEADER, REQUESTED, attribute, errno, message, open, within,
};
use crate::process;

// linux/unix_diag.h.
const REQUEST: usize = 24;
const MESSAGE: usize = 16;
const NAME: u16 = 0;
const FILE: u16 = 1;
const SHOW_NAME_AND_FILE: u32 = 3;

/// A file, as the kernel tells of a socket that is bound to it: of the inode's number the lower half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Inode {
    device: u32,
    number: u32,
}

impl Inode {
    pub(super) fn of(facts: &Statx) -> Self {
        /// Bits of a minor number in the kernel's own form.
        const MINOR: u32 = 20;
        Self {
            device: facts.stx_dev_major << MINOR | facts.stx_dev_minor,
            number: facts.stx_ino as u32,
        }
    }
}

/// The sockets that are bound to files in the network namespaces that were looked at.
#[derive(Debug, Default)]
pub(super) struct Servers {
    names: BTreeMap<Inode, String>,
    looked: Vec<u64>,
}

impl Servers {
    /// Look at those of this process's network namespace, of the process's, and of the host's.
    pub(super) fn add_those_near(&mut self, tgid: u32) {
        let foreign = process::numbered_as_recorded();
        let theirs = tgid.to_string();
        for process in ["self", &theirs, "1"] {
            if process != "self" && !foreign {
                continue;
            }
            let Ok(namespace) = File::open(format!("/proc/{process}/ns/net")) else {
                continue;
            };
            let Ok(which) = namespace.metadata().map(|facts| facts.ino()) else {
                continue;
            };
            if self.looked.contains(&which) {
                continue;
            }
            self.looked.push(which);
            match within(&namespace, bound) {
                Ok(names) => self.names.extend(names),
                Err(error) => tracing::debug!(%error, "unix sockets of {process}"),
            }
        }
    }

    /// The name under which the socket at a file was bound.
    pub(super) fn name_of(&self, file: Inode) -> Option<&str> {
        self.names.get(&file).map(String::as_str)
    }
}

/// All of this thread's network namespace.
fn bound() -> io::Result<Vec<(Inode, String)>> {
    let netlink = open()?;
    let mut text = Vec::with_capacity(HEADER + REQUEST);
    text.extend(
        u32::try_from(HEADER + REQUEST)
            .unwrap_or_default()
            .to_ne_bytes(),
    );
    text.extend(BY_FAMILY.to_ne_bytes());
    text.extend((REQUESTED | DUMPED).to_ne_bytes());
    text.extend([0; 8]);
    text.extend([
        u8::try_from(AddressFamily::UNIX.as_raw()).unwrap_or_default(),
        0,
        0,
        0,
    ]);
    // In all states, of all inodes.
    text.extend(u32::MAX.to_ne_bytes());
    text.extend([0; 4]);
    text.extend(SHOW_NAME_AND_FILE.to_ne_bytes());
    text.extend([0; 8]);
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(&netlink, &text, SendFlags::empty(), &kernel)?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (got, _) = recv(&netlink, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = &buffer[..got];
        while let Some((kind, body, after)) = message(rest) {
            rest = after;
            match kind {
                DONE => return Ok(found),
                ERROR => return errno(body).map(|()| found),
                BY_FAMILY => found.extend(body.get(MESSAGE..).and_then(server)),
                _ => {}
            }
        }
    }
}

fn server(attributes: &[u8]) -> Option<(Inode, String)> {
    let word = |octets: &[u8]| octets.try_into().ok().map(u32::from_ne_bytes);
    let file = attribute(attributes, FILE)?;
    let name = attribute(attributes, NAME)?;
    let end = name.iter().position(|octet| *octet == 0);
    let name = &name[..end.unwrap_or(name.len())];
    let file = Inode {
        number: word(file.get(..4)?)?,
        device: word(file.get(4..8)?)?,
    };
    Some((file, String::from_utf8_lossy(name).into_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

    use super::*;

    #[test]
    fn a_socket_is_found_by_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bound");
        let _server = UnixListener::bind(&path).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let file = |name: &str| {
            let at = dir.path().join(name);
            Inode::of(&statx(CWD, at, AtFlags::empty(), StatxFlags::BASIC_STATS).unwrap())
        };
        let found: BTreeMap<_, _> = bound().unwrap().into_iter().collect();
        assert_eq!(found.get(&file("bound")).map(String::as_str), path.to_str());
        assert_eq!(found.get(&file("file")), None);
    }
}
