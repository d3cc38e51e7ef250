use tako_guest::protocol::End;

use super::sandbox::{Place, job, run, run_job, text};

#[tokio::test]
async fn a_job_prints_and_exits_as_plain_python_would() {
    let run = run("print(1 + 1)").await;
    assert_eq!(text(&run.stderr), "");
    assert_eq!(text(&run.stdout), "2\n");
    assert_eq!(run.report.end, End::Exited { code: 0 });
    assert_eq!(run.report.stdout_total_bytes, 2);
    assert_eq!(run.report.exception, None);
}

#[tokio::test]
async fn input_is_read_and_results_come_back() {
    let mut job = job("import json\nwith open('/input/data.json') as f: data = json.load(f)\n\
         json.dump({'sum': sum(data['numbers'])}, open('/output/result.json', 'w'))\n\
         print(open('/input/deep/a.txt').read())");
    job.input = br#"{"numbers": [1, 2, 3]}"#.as_slice().into();
    job.files = vec![("deep/a.txt".to_owned(), "hello".into())];
    let run = run_job(Place::Init, job).await;
    assert_eq!(text(&run.stdout), "hello\n", "{:?}", run.stderr);
    assert_eq!(run.artifacts, [("result.json".to_owned(), r#"{"sum": 6}"#.into())]);
}

#[tokio::test]
async fn a_guest_that_is_not_the_first_process_runs_a_job_too() {
    let run = run_job(Place::NotInit, job("import os; print(os.getuid())")).await;
    assert_eq!(text(&run.stdout), "1000\n", "{:?}", run.stderr);
    assert_eq!(run.report.end, End::Exited { code: 0 });
}
