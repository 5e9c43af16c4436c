"""The command that shows a run in optuna-dashboard."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Annotated, Any

import typer

from nas_agg.cli.options import RunArgument
from nas_agg.common.errors import InputError


def dashboard(
    run: RunArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of this machine; 0: any free one.")] = 8080,
    open: Annotated[bool, typer.Option("--open", help="Open the dashboard in the browser.")] = False,
) -> None:
    """Show a run in optuna-dashboard, with each trial's network in its note and drawn. Ctrl-C ends it."""
    try:
        import optuna_dashboard
    except ImportError:
        raise InputError("optuna-dashboard is not installed: pip install 'nas-agg[dashboard]'") from None
    from nas_agg.report.runs.dashboard_storage import DashboardStorage, DrawingStore
    from nas_agg.study.records.storages import silence_optuna

    with silence_optuna():
        storage = DashboardStorage(run)
        app = optuna_dashboard.wsgi(storage, artifact_store=DrawingStore(storage))
    stop = threading.Event()
    server = make_server(app, port)
    watching = threading.Thread(target=storage.watch, args=(stop,), daemon=True)
    watching.start()
    url = f"http://127.0.0.1:{server.server_port}/"
    print(f"{run}: {url} (Ctrl-C ends it)", flush=True)
    if open:
        typer.launch(url)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        stop.set()
        server.server_close()


def make_server(app: Callable[..., Any], port: int) -> Any:
    """A server of this machine only, with a thread for each request."""
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True

    class Handler(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Requests are not printed."""

    try:
        return make_server("127.0.0.1", port, app, server_class=Server, handler_class=Handler)
    except OSError as error:
        raise InputError(f"--port: {port} cannot be used: {error.strerror}; choose another, or 0") from None
