"""Ways to get a file that is none of the page's, and texts of a model that would like to be a script."""

from __future__ import annotations

from itertools import product

SCRIPTS = (
    "<script>window.struck = 1</script>",
    '"><img src=x onerror="window.struck = 1">',
    "</pre></article><script>window.struck = 1//",
    "<svg/onload=window.struck=1>",
    "<iframe srcdoc='<script>parent.struck = 1</script>'></iframe>",
    "<a href='javascript:window.struck=1' autofocus onfocus='window.struck=1'>x</a>",
    "<style>@import 'http://evil.example/x.css'; body { display: none }</style>",
    "<link rel=stylesheet href=http://evil.example/x.css><base href=http://evil.example/>",
    "<meta http-equiv=refresh content='0;url=http://evil.example/'>",
    "${window.struck = 1} {{ 7 * 7 }} {% raw %}",
    "\u2028</title></script><script>window.struck = 1</script>",
    "<details open ontoggle=window.struck=1>",
    "\u202egpj.exe <math><mtext><script>window.struck=1</script>",
)


def outside_paths() -> list[str]:
    """Paths behind the token that name a file outside the run folder, or one in it that the page has no view of."""
    ups = ("../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%5c", "....//", "..%252f", "%c0%ae%c0%ae/")
    targets = ("etc/passwd", "secret.txt", "run.json", "metrics.jsonl")
    starts = ("", "static/", "api/", "api/runs/0/", "api/runs/0/completions/", "api/runs/0/evaluations/")
    climbing = [start + up * depth + target for start, up, target, depth in product(starts, ups, targets, (1, 4, 8))]
    absolute = [start + place for start in starts for place in ("/etc/passwd", "%2fetc%2fpasswd", "file:///etc/passwd")]
    files = ("page.js%00.txt", "%00", "page_server.py", "watch.html", "__init__.py", "secret.txt")
    records = ("completions/-1", "completions/1/-1", "state/1", "checkpoint-1/1", "secret.txt", "run.json")
    return [*climbing, *absolute, *(f"static/{name}" for name in files), *(f"api/runs/0/{name}" for name in records)]
