//! Watches over the other actors.
//!
//! An actor that is gone took its mailbox with it, and nothing in memory is worth saving: all
//! that counts is in the log, and leases bring its jobs back. So the root ends the process, and
//! whoever started it starts it again.

use std::time::Duration;

use actix::prelude::*;

/// The exit code of a process whose actor died (`EX_SOFTWARE` of sysexits).
const EXIT_CODE: i32 = 70;

/// The actors to watch, in place of those watched so far.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Guard(pub Vec<Watch>);

/// One watched actor.
pub struct Watch {
    name: &'static str,
    is_alive: Box<dyn Fn() -> bool + Send>,
}

impl Watch {
    pub fn of<A: Actor>(name: &'static str, address: &Addr<A>) -> Self
    where
        Addr<A>: Send,
    {
        let address = address.clone();
        Self { name, is_alive: Box::new(move || address.connected()) }
    }
}

#[derive(Default)]
pub struct Root {
    watched: Vec<Watch>,
}

impl Actor for Root {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(Duration::from_millis(500), |root, _| {
            if let Some(dead) = root.watched.iter().find(|watch| !(watch.is_alive)()) {
                tracing::error!(actor = dead.name, "an actor died; the process ends to start afresh from the log");
                root.watched.clear();
                System::current().stop_with_code(EXIT_CODE);
            }
        });
    }
}

impl Handler<Guard> for Root {
    type Result = ();

    fn handle(&mut self, Guard(watched): Guard, _: &mut Self::Context) {
        self.watched = watched;
    }
}
