//! Ports of the stand on the machine's loopback: listeners outside, connections inside.
//!
//! Started by the keeper. The listeners are opened outside on ports that the kernel picks; then one thread enters
//! the stand's network namespace and connects each caller to the server there. Invariant: bytes are passed on as
//! they are, in both directions, until both ends are done.

use std::fs::File;
use std::net::Ipv4Addr;
use std::net::TcpListener as StdListener;
use std::os::fd::AsFd;

use anyhow::Context;
use anyhow::Result;
use rustix::thread::LinkNameSpaceType;
use rustix::thread::move_into_link_name_space;
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A port that is held outside and will be the same inside.
pub(super) struct Door {
    listener: StdListener,
    /// Its number.
    pub(super) port: u16,
}

impl Door {
    /// Holds a port that the kernel picks.
    ///
    /// # Errors
    /// When none is free.
    pub(super) fn open() -> Result<Self> {
        let listener =
            StdListener::bind((Ipv4Addr::LOCALHOST, 0)).context("opening a port on loopback")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }
}

/// Makes each of `ports` inside the namespaces of process `pid` reachable, and says at which port outside;
/// the ports of `doors` are the same on both sides.
///
/// # Errors
/// When no port is free or the namespace cannot be entered.
pub(super) fn start<const N: usize>(
    pid: u32,
    ports: [u16; N],
    doors: Vec<Door>,
) -> Result<[u16; N]> {
    let network = File::open(format!("/proc/{pid}/ns/net"))
        .context("opening the stand's network namespace")?;
    let mut outside = [0; N];
    let doors = doors.into_iter().map(|door| (door.listener, door.port));
    let mut listeners: Vec<_> = doors.collect();
    for (slot, inside) in outside.iter_mut().zip(ports) {
        let door = Door::open()?;
        *slot = door.port;
        listeners.push((door.listener, inside));
    }
    let (entered, outcome) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("forward".to_owned())
        .spawn(move || {
            let moved =
                move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network));
            let fine = moved.is_ok();
            if entered
                .send(moved.context("entering the stand's network namespace"))
                .is_err()
                || !fine
            {
                return;
            }
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
            else {
                return;
            };
            runtime.block_on(async move {
                futures::future::join_all(
                    listeners
                        .into_iter()
                        .map(|(listener, inside)| serve(listener, inside)),
                )
                .await;
            });
        })?;
    outcome.recv().context("the forwarding thread ended")??;
    Ok(outside)
}

async fn serve(listener: StdListener, inside: u16) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    let mut connections = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        // Ended ones are forgotten, so that the set holds no more than is open.
        while connections.try_join_next().is_some() {}
        let Ok((caller, _)) = accepted else { continue };
        connections.spawn(relay(caller, inside));
    }
}

/// A server that does not answer is seen as a closed connection, as it would be without us.
async fn relay(mut caller: TcpStream, inside: u16) {
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, inside)).await else {
        return;
    };
    drop(caller.set_nodelay(true));
    drop(server.set_nodelay(true));
    drop(copy_bidirectional(&mut caller, &mut server).await);
}
