import side_module


def go(x):
    return side_module.times_two(x) + 1
