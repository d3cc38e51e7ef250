//! What comes back of `/output`, and what does not.

use sha2::{Digest, Sha256};
use tako_guest::protocol::{ArtifactLimits, End, Refusal};

use super::sandbox::{Place, job, run, run_job, text};

fn names(run: &tako_vm::engine::Run) -> Vec<&str> {
    run.artifacts.iter().map(|(name, _)| name.as_str()).collect()
}

fn refusals(run: &tako_vm::engine::Run) -> Vec<(&str, Refusal)> {
    run.report.refused_artifacts.iter().map(|refused| (refused.name.as_str(), refused.reason)).collect()
}

#[tokio::test]
async fn only_regular_files_of_one_name_are_collected() {
    let run = run("import os, socket\n\
         os.chdir('/output')\n\
         open('plain', 'w').write('x')\n\
         os.symlink('/etc/passwd', 'link'); os.symlink('/', 'folder_link'); os.symlink('plain', 'inner_link')\n\
         os.mkfifo('fifo')\n\
         open('one', 'w').close(); os.link('one', 'two')\n\
         s = socket.socket(socket.AF_UNIX); s.bind('socket')\n\
         open('line\\nbreak', 'w').close()\n\
         open(b'not\\xfftext', 'w').close()\n\
         open('empty', 'w').close()\n")
    .await;
    assert_eq!(names(&run), ["empty", "plain"], "{:?}", run.stderr);
    assert_eq!(
        refusals(&run),
        [
            ("fifo", Refusal::NotARegularFile),
            ("folder_link", Refusal::NotARegularFile),
            ("inner_link", Refusal::NotARegularFile),
            ("line\\nbreak", Refusal::BadName),
            ("link", Refusal::NotARegularFile),
            ("not\u{fffd}text", Refusal::BadName),
            ("one", Refusal::HardLink),
            ("socket", Refusal::NotARegularFile),
            ("two", Refusal::HardLink),
        ]
    );
}

#[tokio::test]
async fn folders_are_followed_to_their_depth() {
    let run = run("import os\n\
         os.makedirs('a/b'); open('a/b/c.txt', 'w').write('deep')\n\
         os.makedirs('/'.join('1234567')); open('1/2/3/4/5/6/7/file', 'w').close()\n\
         os.makedirs('/'.join('12345678')); open('1/2/3/4/5/6/7/8/file', 'w').close()\n")
    .await;
    assert_eq!(names(&run), ["1/2/3/4/5/6/7/file", "a/b/c.txt"]);
    assert_eq!(refusals(&run), [("1/2/3/4/5/6/7/8", Refusal::TooDeep)]);
}

#[tokio::test]
async fn count_size_and_total_are_limited_and_the_result_comes_first() {
    let mut job = job("for n in range(9): open(f'{n}', 'w').write('x' * 30)\n\
         open('big', 'w').write('x' * 101)\n\
         import os\n\
         with open('sparse', 'w') as f: os.truncate(f.fileno(), 1 << 20)\n\
         open('result.json', 'w').write('{}')\n");
    job.artifacts = ArtifactLimits { max_count: 5, max_file_bytes: 100, max_total_bytes: 100 };
    let run = run_job(Place::Init, job).await;
    assert_eq!(names(&run), ["result.json", "0", "1", "2"]);
    let refused = refusals(&run);
    assert!(refused.contains(&("3", Refusal::TotalTooLarge)), "{refused:?}");
    assert!(refused.contains(&("big", Refusal::TooLarge)));
    assert!(refused.contains(&("sparse", Refusal::TooLarge)));
}

#[tokio::test]
async fn a_flood_of_files_is_cut_and_does_not_push_the_result_out() {
    let mut job = job("for n in range(10500): open(f'{n:05}', 'w').close()\nopen('result.json', 'w').write('1')");
    job.execution_timeout = std::time::Duration::from_secs(60);
    let run = run_job(Place::Init, job).await;
    assert_eq!(run.artifacts.len(), 20);
    assert_eq!(names(&run)[0], "result.json");
    assert_eq!(run.report.refused_artifacts.len(), 100);
    assert!(refusals(&run).iter().all(|(_, reason)| *reason == Refusal::TooMany));
}

#[tokio::test]
async fn modes_do_not_hide_files_from_collection() {
    for place in [Place::Init, Place::NotInit] {
        let run = run_job(
            place,
            job("import os\nos.mkdir('d'); open('d/f', 'w').write('x'); os.chmod('d/f', 0); os.chmod('d', 0); os.chmod('/output', 0o777)"),
        )
        .await;
        assert_eq!(names(&run), ["d/f"], "{:?}", run.report.refused_artifacts);
    }
}

#[tokio::test]
async fn a_large_file_arrives_to_the_byte() {
    let run = run("import random, hashlib\nblob = random.randbytes(1 << 20)\n\
         open('blob', 'wb').write(blob)\nprint(hashlib.sha256(blob).hexdigest(), end='')")
    .await;
    let (_, bytes) = &run.artifacts[0];
    assert_eq!(bytes.len(), 1 << 20);
    assert_eq!(hex::encode(Sha256::digest(bytes)), text(&run.stdout));
}

#[tokio::test]
async fn files_of_a_job_that_failed_or_was_ended_are_collected_too() {
    let run = run("open('partial', 'w').write('x'); raise ValueError").await;
    assert_eq!(run.report.end, End::Exited { code: 1 });
    assert_eq!(names(&run), ["partial"]);
}
