//! A way to the database that a test can cut.

use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// A unix socket that passes everything on, or nothing. Ends with the value.
pub struct Proxy {
    folder: tempfile::TempDir,
    open: watch::Sender<bool>,
}

/// PostgreSQL's name for the socket of its usual port.
const SOCKET: &str = ".s.PGSQL.5432";

impl Proxy {
    /// Before the socket in another folder.
    pub fn before(folder_of_server: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("tako-way-").tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        let (open, is_open) = watch::channel(true);
        tokio::spawn(accept(listener, folder_of_server.join(SOCKET), is_open));
        Self { folder, open }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends what is connected and refuses what comes, as a lost network with resets does.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    pub fn mend(&self) {
        self.open.send_replace(true);
    }
}

async fn accept(listener: UnixListener, server: PathBuf, mut is_open: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { return };
                if *is_open.borrow() {
                    tokio::spawn(pass(client, server.clone(), is_open.clone()));
                }
            }
            // The proxy itself is gone.
            gone = is_open.changed() => if gone.is_err() { return },
        }
    }
}

async fn pass(mut client: UnixStream, server: PathBuf, mut is_open: watch::Receiver<bool>) {
    let Ok(mut server) = UnixStream::connect(server).await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _ = is_open.wait_for(|open| !open) => {}
    }
}
