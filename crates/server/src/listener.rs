//! Where a server listens: on sockets of its own, or on such that another process takes over.

use socket2::{Domain, Protocol, SockAddr, SockFilter, SockRef, Socket, Type};
use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;

/// Connections that wait in the system's queue until they are accepted; the system has a limit of its own (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// How long a socket that shares its port goes on to accept once it begins no new handshakes: so long may the round trip of one take
/// that had begun.
pub(crate) const HANDSHAKES_LIMIT: Duration = Duration::from_millis(200);

/// A socket on which a server listens.
pub struct Listener(Kind);

enum Kind {
    /// Nobody else has it: it is answered from the start until the end.
    Own(TcpListener),
    /// Others may listen at the same address by `SO_REUSEPORT`. It is bound, and listens once the server is ready: from then on the
    /// system gives it a part of the connections.
    Shared(Socket),
    /// It was handed over, and others may have it, too. Connections wait in its one queue for whoever accepts them.
    Handed(TcpListener),
}

impl Listener {
    /// Listens at the first of `addresses` that can be used.
    ///
    /// # Errors
    ///
    /// If none can.
    pub async fn bind(addresses: &[SocketAddr]) -> Result<Self> {
        Ok(Self(Kind::Own(TcpListener::bind(addresses).await?)))
    }

    /// Will listen at the first of `addresses` that can be used, beside other processes that do the same.
    ///
    /// # Errors
    ///
    /// If none can be used, as where another process listens without sharing.
    pub fn bind_shared(addresses: &[SocketAddr]) -> Result<Self> {
        let mut last = Error::new(ErrorKind::InvalidInput, "it means no address");
        for &address in addresses {
            match shared(address) {
                Ok(socket) => return Ok(Self(Kind::Shared(socket))),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Listens on a socket that was handed over.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// If the system refuses to accept from it without blocking.
    pub fn handed(socket: std::net::TcpListener) -> Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self(Kind::Handed(TcpListener::from_std(socket)?)))
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        match &self.0 {
            Kind::Own(listener) | Kind::Handed(listener) => listener.local_addr(),
            Kind::Shared(socket) => socket.local_addr()?.as_socket().ok_or_else(|| ErrorKind::Unsupported.into()),
        }
    }

    /// Whether another process takes over when this one ends: then it is answered only while the server is ready, and no longer.
    pub(crate) fn is_taken_over(&self) -> bool {
        !matches!(self.0, Kind::Own(_))
    }

    /// Whether its queue is this process's alone, and must be empty when it is closed.
    pub(crate) fn has_own_queue(&self) -> bool {
        matches!(self.0, Kind::Shared(_))
    }

    /// From now on it gets connections, if it has not got them before.
    pub(crate) fn listen(self) -> Result<TcpListener> {
        match self.0 {
            Kind::Own(listener) | Kind::Handed(listener) => Ok(listener),
            Kind::Shared(socket) => {
                socket.listen(BACKLOG)?;
                // Not before: a socket that does not listen is at its end, and waiting for it would begin with that.
                TcpListener::from_std(socket.into())
            }
        }
    }
}

/// Lets a socket that listens begin no new handshake: clients whose first packet it drops send it again within a second, when
/// another socket gets it. Where the system refuses that, what comes until the socket is closed is lost.
pub(crate) fn begin_no_handshakes(listener: &TcpListener) -> Result<()> {
    SockRef::from(listener).attach_filter(&no_handshakes())
}

fn shared(address: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

/// A program for the system that drops the packets with which handshakes begin.
fn no_handshakes() -> [SockFilter; 5] {
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// Where the flags are in the header of TCP (RFC 9293, 3.1).
    const FLAGS: u32 = 13;
    const SYN: u32 = 2;
    const SYN_OR_ACK: u32 = 0x12;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN_OR_ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        // Drop it.
        SockFilter::new(RETURN, 0, 0, 0),
        // Take all of it.
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}
