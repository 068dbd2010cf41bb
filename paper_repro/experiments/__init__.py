'''The experiments of the papers, one module for each.

To add one, write a module here and list it in `EXPERIMENTS` of `paper_repro/__main__.py`. The
command `my-experiment` runs `my_experiment.run`:

    def run(setting: Setting) -> Result:
        """Measure; `setting.quick` asks for little work, `setting.seed` decides every draw."""
        params = efficientnet.load(progress=setting.progress)
        image = photographs.center_crop(photographs.photograph("coffee"))
        top = float(efficientnet.network(image, params).max())
        claim = Claim("the largest logit", paper="9.6", ours=decimal(top), agrees=top > 9)
        return Result("A title", {"": _draw(image)}, {"largest logit": top}, claims=[claim])

`Setting`, `Claim` and `Result` are in `paper_repro.report.results`, which writes the figures and
numbers of a result and a page of its claims; data come from `paper_repro.data`, networks from
`paper_repro.networks`. `--out paper_repro/results` writes the committed files, and
`python -m paper_repro gallery` then the page of all experiments.

A module here that is not an experiment says so in its first line.
'''
