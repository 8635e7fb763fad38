//! A relay between clients and an engine: it holds back what the engine says, and cuts connections, at any byte.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// Listens on loopback until it is dropped, and passes each connection on to `target`.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What the engine says waits here.
    is_held: bool,
    is_over: bool,
    /// After how many bytes from the engine the next connections are cut; those beyond them are not.
    cuts: VecDeque<usize>,
    connections: Vec<Connection>,
    accepted: usize,
}

struct Connection {
    client: Arc<TcpStream>,
    engine: Arc<TcpStream>,
    is_cut: bool,
}

impl Relay {
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared { target, state: Mutex::default(), changed: Condvar::new() });
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || shared.accept(&listener)
        });
        Self { address, shared, thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts the connection that comes next after so many bytes from the engine, the one after it as the next call says.
    pub fn cut_after(&self, bytes: usize) {
        self.shared.lock().cuts.push_back(bytes);
    }

    /// From now on nothing of what the engine says arrives.
    pub fn hold(&self) {
        self.shared.lock().is_held = true;
    }

    /// Lets what is held go on its way.
    pub fn release(&self) {
        self.shared.lock().is_held = false;
        self.shared.changed.notify_all();
    }

    /// Cuts every connection, on both sides. What is held back is gone.
    pub fn cut(&self) {
        self.cut_sides(true);
    }

    /// Cuts every connection on the client's side; the engine is not told. What is held back is gone.
    pub fn cut_client_side(&self) {
        self.cut_sides(false);
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.shared.lock().accepted
    }

    fn cut_sides(&self, both: bool) {
        let mut state = self.shared.lock();
        for connection in &mut state.connections {
            connection.is_cut = true;
            // It may be gone already.
            let _ = connection.client.shutdown(Shutdown::Both);
            if both {
                let _ = connection.engine.shutdown(Shutdown::Both);
            }
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.cut();
        // Wakes `accept`.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with the lock")
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut pumps = Vec::new();
        for client in listener.incoming() {
            let Ok(client) = client else { continue };
            if self.lock().is_over {
                break;
            }
            // Nobody listens there at the moment: the client sees its connection end.
            let Ok(engine) = TcpStream::connect(self.target) else { continue };
            let (client, engine) = (Arc::new(client), Arc::new(engine));
            let mut state = self.lock();
            let at = state.connections.len();
            let cut_after = state.cuts.pop_front();
            state.connections.push(Connection { client: client.clone(), engine: engine.clone(), is_cut: false });
            state.accepted += 1;
            drop(state);
            pumps.push(std::thread::spawn({
                let (client, engine) = (client.clone(), engine.clone());
                move || upstream(&client, &engine)
            }));
            let shared = self.clone();
            pumps.push(std::thread::spawn(move || shared.downstream(at, &engine, &client, cut_after)));
        }
        for pump in pumps {
            let _ = pump.join();
        }
    }

    fn downstream(&self, at: usize, mut engine: &TcpStream, mut client: &TcpStream, cut_after: Option<usize>) {
        let mut left = cut_after.unwrap_or(usize::MAX);
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = engine.read(&mut buffer) {
            let mut state = self.lock();
            while state.is_held && !state.connections[at].is_cut {
                state = self.changed.wait(state).expect("nobody panics with the lock");
            }
            let is_cut = state.connections[at].is_cut;
            drop(state);
            let passed = count.min(left);
            left -= passed;
            if is_cut || client.write_all(&buffer[..passed]).is_err() || left == 0 {
                break;
            }
        }
        let mut state = self.lock();
        // The engine's side of a connection that was cut on the client's alone stays as it is.
        let is_told = !state.connections[at].is_cut;
        state.connections[at].is_cut = true;
        drop(state);
        let _ = client.shutdown(Shutdown::Both);
        if is_told {
            let _ = engine.shutdown(Shutdown::Both);
        }
    }
}

fn upstream(mut client: &TcpStream, mut engine: &TcpStream) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        if engine.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
}
