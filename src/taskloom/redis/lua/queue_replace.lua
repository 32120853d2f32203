-- Back to the queue what is still held, as other tasks. Message: {deliveries}: each {entry,
-- consumer, claims, id, due in microseconds, body}. Returns the places of those that were not.
local ours, lost = sort_out(message[1])
for _, each in ipairs(ours) do
  drop({each[1]})
  wait(each[4], each[5], 0, each[6])
end
if #ours > 0 then
  ring()
end
return lost
