//! What a worker is given over its socket before the control protocol begins there: a byte, and with it, maybe, a descriptor.
//!
//! So nothing has to have a name in a file system, also not below `/proc`, and no other program inherits it.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Sends the byte, and a descriptor if there is one. It waits for nobody: a new socket has room.
///
/// # Errors
///
/// The socket's.
pub fn hand_over(socket: &UnixStream, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)), "there is room for one");
    }
    sendmsg(socket, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for the byte, and takes the descriptor that came with it.
///
/// # Errors
///
/// The socket's; and where the other end is closed.
pub fn take_over(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok(descriptors.flatten().next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    #[test]
    fn a_descriptor_comes_with_the_first_byte_and_leaves_the_rest() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        let (reader, mut writer) = io::pipe().expect("a pipe");
        hand_over(&ours, Some(reader.as_fd())).expect("it is sent");
        ours.write_all(b"protocol").expect("it is sent");
        let taken = take_over(&theirs).expect("it comes").expect("a descriptor");
        writer.write_all(b"hello").expect("there is room");
        let mut text = [0; 5];
        File::from(taken).read_exact(&mut text).expect("five bytes");
        assert_eq!(&text, b"hello");
        let mut protocol = [0; 8];
        theirs.read_exact(&mut protocol).expect("eight bytes");
        assert_eq!(&protocol, b"protocol");
    }

    #[test]
    fn there_may_be_none() {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        hand_over(&ours, None).expect("it is sent");
        assert!(take_over(&theirs).expect("a byte").is_none());
        drop(ours);
        assert_eq!(take_over(&theirs).expect_err("it is closed").kind(), io::ErrorKind::UnexpectedEof);
    }
}
