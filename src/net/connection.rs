//! The task of one connection: it reads, and writes on where the socket would not take all at once. What it needs is
//! in the shell's table, so the task itself is two words and holds no buffer.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::broker::shard::ConnectionId;

use super::shell::{Shell, State};
use super::sockets::Reading;

/// Reads for one wake-up, before other connections have their turn.
const READS: usize = 4;

/// After so long there is no further read: some packets cost far more than others.
const SLICE: Duration = Duration::from_micros(200);

/// Serves a connection until the shard lets go of it.
pub(super) struct ConnectionTask {
    shell: Rc<Shell>,
    id: ConnectionId,
}

impl ConnectionTask {
    pub(super) fn new(shell: Rc<Shell>, id: ConnectionId) -> ConnectionTask {
        ConnectionTask { shell, id }
    }
}

impl Future for ConnectionTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut turn = self.shell.turn();
        let State { shard, sockets, scratch, stats, .. } = &mut *turn;
        let Some(socket) = sockets.get(self.id) else { return Poll::Ready(()) };
        let now = Instant::now();
        socket.keep_waker(cx);
        stats.bytes_sent.add(socket.unblock(shard, now, cx) as u64);
        let mut reading = Reading::Ready;
        for _ in 0..READS {
            reading = socket.read(shard, scratch, now, cx);
            if reading != Reading::Ready || now.elapsed() >= SLICE {
                break;
            }
        }
        self.shell.wake_flusher();
        match reading {
            Reading::Over => Poll::Ready(()),
            Reading::Waiting => Poll::Pending,
            Reading::Ready => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connections_task_is_two_words() {
        println!("size_of ConnectionTask: {} bytes", size_of::<ConnectionTask>());
        assert_eq!(size_of::<ConnectionTask>(), 16);
    }
}
