//! The front, driven over its sockets by raw packets, with a service that answers from memory.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::result_large_err, reason = "tests are few and short")]
#![expect(clippy::disallowed_methods, reason = "the client is a plain blocking program")]

mod agent;
mod arguments;
mod backend;
mod client;
mod events;
mod limits;
mod neighbour;
mod neighbours;
mod odd_input;
mod questions;
mod served;
mod streams;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backend::Fake;
use compat::{Authority, Clients, Limits, Options, Patience, Socket, SocketKind};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// A front that runs until it is dropped.
struct Front {
    dir: tempfile::TempDir,
    options: Arc<Options>,
    fake: Fake,
    stop: CancellationToken,
    runtime: Runtime,
}

impl Front {
    fn new() -> Self {
        Self::with(Limits::default(), Authority::default())
    }

    /// As it is with polkit, which lets everybody in.
    fn asking() -> Self {
        let yes = |_, _| std::future::ready(true);
        Self::with(
            Limits::default(),
            Authority::default().with(SocketKind::ReadWrite, yes),
        )
    }

    fn with(limits: Limits, authority: Authority) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let fake = Fake::new();
        let mut options = Options::new(fake.service(), true);
        options.clients = Arc::new(Clients::new(limits));
        options.authority = authority;
        options.neighbours.directory = dir.path().into();
        options.neighbours.patience = Patience {
            opening: Duration::from_millis(500),
            interval: Duration::from_millis(200),
            count: 2,
            retry: Duration::from_millis(20),
            retry_max: Duration::from_millis(40),
        };
        let (options, stop) = (Arc::new(options), CancellationToken::new());
        let guard = runtime.enter();
        let kinds = [
            ("rw", SocketKind::ReadWrite),
            ("ro", SocketKind::ReadOnly),
            ("admin", SocketKind::Admin),
        ];
        let sockets = kinds.map(|(name, kind)| Socket {
            kind,
            listener: UnixListener::bind(dir.path().join(name)).unwrap(),
        });
        runtime.spawn(compat::serve(sockets.into(), Arc::clone(&options), stop.clone()));
        drop(guard);
        Self {
            dir,
            options,
            fake,
            stop,
            runtime,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self) -> client::Client {
        client::Client::open(&self.path("rw"))
    }

    /// Whether nobody is connected any more, within a second.
    fn is_deserted(&self) -> bool {
        (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            *self.options.clients.watch().borrow() == 0
        })
    }
}
