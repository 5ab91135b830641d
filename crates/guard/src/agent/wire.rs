//! Packets over a unix socket, with descriptors, and files that go along with them.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Seek as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use blackstart_core::agent::MAX_PACKET;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, recvmsg, sendmsg, socket_with,
};

/// More descriptors than that come with no packet.
const DESCRIPTORS: usize = 2;

/// After these no octet of a file changes any more, nor does its length.
const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE)
    .union(SealFlags::SEAL);

/// One end of a connection that keeps packets apart.
#[derive(Debug)]
pub(crate) struct Link(OwnedFd);

/// A packet, and the descriptors that came with it.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) octets: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Link {
    /// To whoever listens there.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(socket))
    }

    /// Of an accepted one.
    pub(crate) fn of(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// The same, for somebody else to have.
    pub(crate) fn again(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// How long the other side may take with a packet, or to make room for one; none: as long as it likes.
    pub(crate) fn set_patience(
        &self,
        read: Option<Duration>,
        write: Option<Duration>,
    ) -> io::Result<()> {
        set_socket_timeout(&self.0, Timeout::Recv, read)?;
        Ok(set_socket_timeout(&self.0, Timeout::Send, write)?)
    }

    /// Say something, with these descriptors.
    pub(crate) fn send(&self, octets: &[u8], with: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_as(octets, with, SendFlags::NOSIGNAL)
    }

    /// Say something if there is room for it: nobody is waited for.
    pub(crate) fn try_send(&self, octets: &[u8]) -> io::Result<()> {
        self.send_as(octets, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    }

    fn send_as(&self, octets: &[u8], with: &[BorrowedFd<'_>], flags: SendFlags) -> io::Result<()> {
        if octets.len() > MAX_PACKET || octets.is_empty() {
            return Err(io::Error::from(Errno::MSGSIZE));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut along = SendAncillaryBuffer::new(&mut space);
        if !with.is_empty() && !along.push(SendAncillaryMessage::ScmRights(with)) {
            return Err(io::Error::from(Errno::INVAL));
        }
        loop {
            match sendmsg(&self.0, &[IoSlice::new(octets)], &mut along, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What is said next; none once the other side is gone.
    pub(crate) fn receive(&self) -> io::Result<Option<Packet>> {
        self.receive_as(RecvFlags::CMSG_CLOEXEC)
    }

    /// The same, without waiting: [`io::ErrorKind::WouldBlock`] if nothing was said.
    pub(crate) fn try_receive(&self) -> io::Result<Option<Packet>> {
        self.receive_as(RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)
    }

    fn receive_as(&self, flags: RecvFlags) -> io::Result<Option<Packet>> {
        let mut octets = vec![0; MAX_PACKET + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut along = RecvAncillaryBuffer::new(&mut space);
        let mut reset = false;
        let got = loop {
            let mut into = [IoSliceMut::new(&mut octets)];
            match recvmsg(&self.0, &mut into, &mut along, flags) {
                Err(Errno::INTR) => {}
                // Whoever hung up had not read all that we said. What it said before that is still to be heard.
                Err(Errno::CONNRESET) if !reset => reset = true,
                other => break other?,
            }
        };
        // What came along is taken in any case, so that it is closed.
        let mut descriptors = Vec::new();
        for message in along.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
        if got.flags.intersects(cut) || descriptors.len() > DESCRIPTORS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a packet has more than {MAX_PACKET} octets or {DESCRIPTORS} descriptors"),
            ));
        }
        // A packet without octets is none that anybody sends.
        if got.bytes == 0 {
            return Ok(None);
        }
        octets.truncate(got.bytes);
        // It is held as long as what it asks for goes on.
        octets.shrink_to_fit();
        Ok(Some(Packet {
            octets,
            descriptors,
        }))
    }
}

/// A file in memory with this content, which nobody changes any more.
pub(crate) fn sealed(
    fill: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create("blackstart", flags)?;
    let mut out = io::BufWriter::new(File::from(file));
    fill(&mut out)?;
    out.flush()?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

/// What such a file says. Any other descriptor is refused: reading it might wait, or change what somebody else reads.
pub(crate) fn read_sealed(file: OwnedFd, most: usize) -> io::Result<Vec<u8>> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    match fcntl_get_seals(&file) {
        Ok(seals) if seals.contains(SEALS) => {}
        _ => return Err(refused("what came along is no sealed file in memory")),
    }
    let file = File::from(file);
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if length > most {
        return Err(refused(&format!(
            "the file that came along has more than {most} octets"
        )));
    }
    let mut octets = vec![0; length];
    file.read_exact_at(&mut octets, 0)?;
    Ok(octets)
}

/// The same for one that our own side made, to be read as it comes.
pub(crate) fn reader(file: OwnedFd) -> io::Result<impl io::Read> {
    let mut file = File::from(file);
    file.rewind()?;
    Ok(io::BufReader::new(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::socketpair;

    fn pair() -> (Link, Link) {
        let (a, b) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        (Link(a), Link(b))
    }

    #[test]
    fn packets_come_whole_or_not_at_all() {
        let (a, b) = pair();
        let file = sealed(|out| out.write_all(b"order")).unwrap();
        a.send(b"one", &[file.as_fd()]).unwrap();
        let mut got = b.receive().unwrap().unwrap();
        assert_eq!(got.octets, b"one");
        let file = got.descriptors.pop().unwrap();
        assert_eq!(read_sealed(file.try_clone().unwrap(), 5).unwrap(), b"order");
        assert!(read_sealed(file, 4).is_err());
        assert!(a.send(&vec![0; MAX_PACKET + 1], &[]).is_err());
        // Past our own bounds, as a stranger may.
        rustix::net::send(&a.0, &vec![0; MAX_PACKET + 2], SendFlags::empty()).unwrap();
        assert!(b.receive().is_err());
        let many = [a.fd(), a.fd(), a.fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut along = SendAncillaryBuffer::new(&mut space);
        assert!(along.push(SendAncillaryMessage::ScmRights(&many)));
        sendmsg(&a.0, &[IoSlice::new(b"x")], &mut along, SendFlags::empty()).unwrap();
        assert!(b.receive().is_err());
        assert_eq!(
            b.try_receive().err().map(|error| error.kind()),
            Some(io::ErrorKind::WouldBlock)
        );
        a.send(b"last", &[]).unwrap();
        b.send(b"unread", &[]).unwrap();
        drop(a);
        assert_eq!(b.receive().unwrap().unwrap().octets, b"last");
        assert!(b.receive().unwrap().is_none());
    }

    #[test]
    fn only_files_that_nobody_changes_are_read() {
        let plain = tempfile::tempfile().unwrap();
        assert!(read_sealed(plain.into(), 100).is_err());
        let (read, _write) = rustix::pipe::pipe().unwrap();
        assert!(read_sealed(read, 100).is_err());
        let open = memfd_create("x", MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(read_sealed(open, 100).is_err());
    }
}
