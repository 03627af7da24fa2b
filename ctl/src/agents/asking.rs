//! Many agents asked at once, and what is said of those that did not answer.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::AT_ONCE;
use crate::failure::Failure;
use crate::output::{Bar, Output};

/// Whoever has not answered after this is waited for beside the others, and not in their place: an
/// agent answers from memory.
const SLOW: Duration = Duration::from_secs(2);
/// Answers that are waited for at once, those of the slow included: each is a descriptor, of which a
/// process has 1,024.
const WAITED_FOR_MAX: usize = 512;
/// Agents that did not answer and have a line of their own.
const LINES_MAX: usize = 10;
/// More of them that are named.
const NAMES_MAX: usize = 50;

/// Puts a question to each of `count` agents; what they answer, as it comes.
pub(super) async fn all<T>(
    count: usize,
    bar: Option<Bar>,
    put: impl AsyncFn(usize) -> T,
) -> Vec<(usize, T)> {
    let free = Semaphore::new(AT_ONCE);
    let (free, put) = (&free, &put);
    let asked = stream::iter(0..count).map(|agent| async move {
        let turn = free.acquire().await;
        let mut answer = std::pin::pin!(put(agent));
        let in_time = timeout(SLOW, &mut answer).await;
        drop(turn);
        match in_time {
            Ok(answer) => (agent, answer),
            Err(_) => (agent, answer.await),
        }
    });
    let mut asked = asked.buffer_unordered(WAITED_FOR_MAX);
    let mut answers = Vec::new();
    while let Some(answer) = asked.next().await {
        answers.push(answer);
        if let Some(bar) = &bar {
            bar.counted(answers.len() as u64, count as u64);
        }
    }
    answers
}

/// Shows how many have answered, where anybody has to wait for that.
pub(super) fn bar(count: usize, output: &Output) -> Option<Bar> {
    (count > AT_ONCE).then(|| output.bar("asking the agents"))
}

/// Says of each of these nodes why it did not answer, as far as anybody would read that.
pub(super) fn say(silent: &[(&str, &Failure)], output: &mut Output) {
    let lines = if silent.len() > LINES_MAX + 1 {
        LINES_MAX
    } else {
        silent.len()
    };
    let (told, rest) = silent.split_at(lines);
    for (node, failure) in told {
        output.note(&format!("node {node}: {failure}"));
    }
    if rest.is_empty() {
        return;
    }
    let names: Vec<&str> = rest.iter().take(NAMES_MAX).map(|(node, _)| *node).collect();
    let dots = if rest.len() > NAMES_MAX { ", …" } else { "" };
    output.note(&format!(
        "{} more nodes did not answer: {}{dots}",
        rest.len(),
        names.join(", ")
    ));
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    /// Half a second to answer, or ten when it hangs.
    async fn answer(hangs: bool) {
        sleep(Duration::from_millis(if hangs { 10_000 } else { 500 })).await;
    }

    #[tokio::test(start_paused = true)]
    async fn agents_that_hang_do_not_keep_the_others_waiting() {
        let begun = Instant::now();
        let answers = all(400, None, async |agent| answer(agent < 100).await).await;
        assert_eq!(answers.len(), 400);
        // Four turns of those that hang, none of which takes longer than it takes to be slow, then ten
        // of the others; and the last that hang.
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(17), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_answer_are_asked_a_few_at_once() {
        let busy = std::cell::Cell::new(0_usize);
        let most = std::cell::Cell::new(0_usize);
        let put = async |_| {
            busy.set(busy.get() + 1);
            most.set(most.get().max(busy.get()));
            answer(false).await;
            busy.set(busy.get() - 1);
        };
        all(200, None, put).await;
        assert_eq!(most.get(), AT_ONCE);
    }
}
