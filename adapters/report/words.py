"""What the words of the pages mean; a page explains those that it uses."""

WORDS = {
    "group": "Channels that have to change together, because one weight reads what another "
    "makes; named after the first weight that makes them.",
    "channels": "Filters of a convolution, or features of a layer: what one weight makes and "
    "the next one reads.",
    "producers": "Weights that make the channels of a group, such as a convolution; its bias is "
    "one as well.",
    "per channel": "Weights with one value for each channel of a group, such as the four of a "
    "batch normalization, and depthwise filters. “1 + 9 + 1” stands for one producer, nine such "
    "weights, and one consumer.",
    "consumers": "Weights that read the channels of a group: the next convolution or layer.",
    "may move": "How many channels may change places with each other; a group that is frozen "
    "stays, for the reason given.",
    "capacity used": "The least of three shares: of its map's nodes that a group occupies, of "
    "its channels that its effective rank comes to, and of its channels that are not dormant.",
    "occupied nodes": "The channels are laid on a self-organizing map by how they respond to "
    "each class; channels that respond alike share a node. Few occupied nodes mean many "
    "channels that do the same. With one node a channel, a quarter to a third stays empty even "
    "where all differ.",
    "effective rank": "How many independent directions the responses span: 1 where all channels "
    "respond alike up to a factor, as many as there are channels where none can be told from "
    "others (Roy and Vetterli 2007).",
    "dormant": "Share of channels that hardly ever respond: at most 0.025 of the layer's mean "
    "(Sokar et al. 2023).",
    "moved": "Channels that stand at another place than before; the outputs stay the same.",
    "survive": "Places that keep a channel, or one made of several that respond alike.",
    "left": "Channels that remain; the others were removed.",
    "merged": "Old channels that share a place with others now, or whose task others took over.",
    "new": "Places that became free: their channels start anew, and learn in the training that "
    "follows.",
    "consumers miss": "What the consumers miss of what they read before, after the refit by "
    "least squares, on samples that the refit did not use: root mean square, relative to what "
    "they read.",
    "parameters": "Numbers that the file learned: elements of all weights.",
    "multiply-adds": "Multiplications of its convolutions and products for one sample; one is "
    "two FLOPs.",
    "latency": "Median time of one run by onnxruntime on the machine that made this page, both "
    "files in turn.",
    "accuracy": "How often the file names the right class first. The line beside it is the "
    "interval of 95 % (Wilson 1927): what so few samples leave open.",
    "same first class": "How often both files name the same class first.",
}
