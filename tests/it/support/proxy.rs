//! A bad network on loopback: delays, stalls, single bytes, and resets at random points, from one seed.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Numbers that a seed decides (xorshift64*).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % most
    }

    pub fn one_in(&mut self, chance: u64) -> bool {
        self.below(chance) == 0
    }
}

/// Relays connections to a gateway, badly. Dropping it ends them all.
pub struct Proxy {
    pub address: String,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub async fn start(gateway: String, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (mut dice, mut relays) = (Dice::new(seed), JoinSet::new());
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&gateway).await else { continue };
                let dice = Dice::new(dice.below(u64::MAX));
                relays.spawn(relay(client, server, dice));
                while relays.try_join_next().is_some() {}
            }
        });
        Self { address, _tasks: tasks }
    }
}

async fn relay(client: TcpStream, server: TcpStream, mut dice: Dice) {
    // A connection that is to be reset says so to both sides at once: no lingering, no goodbye.
    for socket in [&client, &server] {
        let _ = socket.set_nodelay(true);
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        let _ = nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::Linger, &linger);
    }
    // Three in four end before their time.
    let doomed = !dice.one_in(4);
    let mut life = |most: u64| if doomed { dice.below(most) } else { u64::MAX };
    let (up_life, down_life) = (life(4_000), life(150_000));
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let (one, two) = (Dice::new(dice.below(u64::MAX)), Dice::new(dice.below(u64::MAX)));
    tokio::select! {
        () = pass(client_reads, server_writes, one, up_life) => {}
        () = pass(server_reads, client_writes, two, down_life) => {}
    }
}

/// One direction, until its end or that of its life in bytes.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut dice: Dice, life: u64) {
    let mut left = life;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let mut bytes = &buffer[..count];
        if dice.one_in(20) {
            tokio::time::sleep(Duration::from_millis(dice.below(5))).await;
        }
        if dice.one_in(300) {
            tokio::time::sleep(Duration::from_millis(50 + dice.below(150))).await;
        }
        while !bytes.is_empty() {
            let piece = if dice.one_in(10) { 1 } else { 1 + dice.below(bytes.len() as u64) as usize };
            if left < piece as u64 {
                let _ = to.write_all(&bytes[..left as usize]).await;
                return;
            }
            if to.write_all(&bytes[..piece]).await.is_err() {
                return;
            }
            left -= piece as u64;
            bytes = &bytes[piece..];
        }
    }
}
