"""p104ctl's verbs: this table lists them, ``verbs/<verb>.py`` holds each as ``command``.

The table exists so that ``--help`` and completion of a verb load none of them; a test holds its texts equal to the
commands' own.
"""

from __future__ import annotations

#: heading -> verb -> what it does in a line
SECTIONS: dict[str, dict[str, str]] = {
    "Jobs": {
        "submit": "Submit the jobs of YAML files and print their ids.",
        "run": "Run a command as a job, show its output, end with its exit code.",
        "list": "List jobs, the newest first.",
        "show": "Show all that is known of jobs.",
        "logs": "Print the output of a job.",
        "wait": "Wait until jobs have ended.",
        "explain": "Say why a waiting job waits, card by card.",
        "cancel": "Cancel jobs; running ones are stopped.",
        "hold": "Keep queued jobs from starting.",
        "release": "Let held jobs start again.",
        "retry": "Run ended jobs once more.",
        "priority": "Change the priority of waiting jobs.",
        "plan": "Foretell when the queue will be done, and what each job waits for.",
        "schedules": "List, hold, release or cancel schedules.",
    },
    "The rig": {
        "status": "Show the cards, the queue, running jobs and warnings on one screen.",
        "top": "Watch the rig live: cards, running and waiting jobs, with keys to act.",
        "cards": "Show the cards.",
        "verify": "Test the memory of cards and show what was found.",
        "history": "Show what was recorded over time: speeds, memory tests, readings.",
        "bench": "Measure how fast a language model runs on each card.",
        "models": "Show, pin or unload the models on the cards, or what a file needs.",
        "report": "Show on one page what ran, what it took and what to look at.",
        "power": "Show or set what cards may draw, how fast they run, how they are cooled.",
        "drain": "Let cards finish their jobs and take no more.",
        "undrain": "Let drained cards take jobs again.",
        "pause": "Start no more jobs; running ones go on.",
        "resume": "Start jobs again after a pause.",
    },
    "Care": {
        "doctor": "Check driver, permissions, cards and disk, with the mend of each fault.",
        "export": "Write a copy of the queue as an SQLite file.",
        "schema": "Print the JSON Schemas of job.yaml and of what --json prints.",
        "completion": "Print the completion script of a shell.",
        "version": "Print the versions of p104ctl and of the daemon.",
    },
}

VERBS: dict[str, str] = {verb: text for section in SECTIONS.values() for verb, text in section.items()}
